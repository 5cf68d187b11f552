/* As much of an MPI library as programs/foreign.c calls, with the constants of none that Stillpoint knows: it is linked
 * into the program, or stands beside it under another library's name. */
#include "foreign_mpi.h"

const char* const foreign_mpi_words = "MPIR_ERRORS_ARE_FATAL"; /* an MPI's own error texts are in whatever it is linked into */

int PMPI_Init(int* argc, char*** argv) { return argc == 0 || argv == 0; }
int MPI_Init(int* argc, char*** argv) { return PMPI_Init(argc, argv); }
int PMPI_Comm_rank(int communicator, int* rank) { return *rank = 0, communicator != FOREIGN_WORLD; }
int MPI_Comm_rank(int communicator, int* rank) { return PMPI_Comm_rank(communicator, rank); }
int PMPI_Barrier(int communicator) { return communicator != FOREIGN_WORLD; }
int MPI_Barrier(int communicator) { return PMPI_Barrier(communicator); }
int PMPI_Finalize(void) { return 0; }
int MPI_Finalize(void) { return PMPI_Finalize(); }
