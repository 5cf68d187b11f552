// Checkpoints that leave the site or come from another one: `stillpoint export` and `import`. Core's strand.
//
// An export reads images of a committed checkpoint piece by piece, from any host that has them; nothing is remembered
// in between. An import:
//
//   event          what happens
//   BeginImport    checked, numbered, placed; refused when it could never be restored or kept here
//   ImportPiece    one at a time: to the host that is to keep the image, or behind the output; answered when it is
//   there FinishImport   the hosts make the images as durable as the job's level asks; then job and checkpoint are
//   committed
//                  in one transaction, the job stopped, and restart takes it up like any other
//
// Whatever goes wrong before that transaction, or comes too late, ends the import: what hosts and files have of it is
// deleted, and nobody ever sees the job.
#pragma once

#include "coordinator/core/core.h"

namespace stillpoint::coordinator::transfer {

void on_begin(Core& core, BeginImport event);
void on_piece(Core& core, ImportPiece event);
void on_finish(Core& core, const FinishImport& event);
void on_abandon(Core& core, const AbandonImport& event);
void on_export(Core& core, const ExportPiece& event);
void on_answer(Core& core, const Request& request, const wire::FromHost& answer);
// Of a job that is being imported.
void on_output(Core& core, const OutputDurable& event);
void on_output_failed(Core& core, const OutputFailed& event);
void tick(Core& core);

}  // namespace stillpoint::coordinator::transfer
