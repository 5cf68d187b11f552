/* An MPI whose handles are numbers, as MPICH's are. */
#pragma once

enum { FOREIGN_WORLD = 0x44000000 };

int MPI_Init(int* argc, char*** argv);
int PMPI_Init(int* argc, char*** argv);
int MPI_Comm_rank(int communicator, int* rank);
int PMPI_Comm_rank(int communicator, int* rank);
int MPI_Barrier(int communicator);
int PMPI_Barrier(int communicator);
int MPI_Finalize(void);
int PMPI_Finalize(void);
