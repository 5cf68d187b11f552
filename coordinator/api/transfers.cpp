// The endpoints of `stillpoint export` and `import`: a checkpoint's description, and its images and output in pieces.
#include "coordinator/api/api.h"
#include "coordinator/api/reading.h"
#include "coordinator/api/transfer_json.h"
#include "coordinator/api/views.h"

namespace stillpoint::coordinator {
namespace {

using nlohmann::json;

struct Piece {
  ImagePart part = ImagePart::output;
  std::uint64_t guest = 0, offset = 0, last = 0;
};

// at: where "output" or "guests/G/memory" stands in the path.
Result<Piece> piece_of(const HttpRequest& request, std::size_t at) {
  Piece piece;
  auto offset = query_number(request, "offset", 0);
  if (!offset) return offset.error();
  auto last = query_number(request, "last", 0);
  if (!last) return last.error();
  piece.offset = *offset;
  piece.last = *last;
  if (request.path[at] != "guests") return piece;
  auto guest = number_in(request.path[at + 1], "guest");
  if (!guest) return guest.error();
  piece.guest = *guest;
  const std::string& part = request.path[at + 2];
  if ((part != "memory" && part != "disk") || *guest > UINT32_MAX)
    return Error{ErrorKind::not_found, "reading", part, "expected memory or disk of a guest"};
  piece.part = part == "disk" ? ImagePart::disk : ImagePart::memory;
  return piece;
}

const EpochRecord* find_epoch(const Coordinator& core, const JobRecord& job, Epoch number) {
  const auto found = core.state().epochs.find(number);
  return found == core.state().epochs.end() || found->second.job != job.job ? nullptr : &found->second;
}

const EpochRecord* newest_committed(const Coordinator& core, const JobRecord& job) {
  const EpochRecord* newest = nullptr;
  for (const auto& [number, epoch] : core.state().epochs)
    if (epoch.job == job.job && epoch.state == EpochState::committed && !epoch.control) newest = &epoch;
  return newest;
}

Error no_checkpoint(const JobRecord& job, std::uint64_t epoch) {
  if (epoch == 0)
    return {ErrorKind::not_found, "export", job.job.value,
            "it has no committed checkpoint; take one: stillpoint checkpoint " + job.job.value};
  return {ErrorKind::not_found, "export", "checkpoint " + std::to_string(epoch) + " of " + job.job.value,
          "no such checkpoint"};
}

HttpResponse bytes_response(std::string bytes, bool last) {
  HttpResponse response;
  response.content_type = "application/octet-stream";
  response.headers = {{"X-Last", last ? "1" : "0"}};
  response.body = std::move(bytes);
  return response;
}

}  // namespace

void Api::export_description(const Call& call) {
  auto number = query_number(call->request, "epoch", 0);
  if (!number) return call->respond(error_response(400, number.error().message()));
  with_job(call, [call, number = *number](const Coordinator& core, Catalog&, const JobRecord& job) {
    const EpochRecord* epoch = number == 0 ? newest_committed(core, job) : find_epoch(core, job, Epoch{number});
    if (epoch == nullptr) return call->respond(error_response(no_checkpoint(job, number)));
    if (epoch->state != EpochState::committed || epoch->control)
      return call->respond(error_response(Error{
          ErrorKind::refused, "export", "checkpoint " + std::to_string(epoch->epoch.value) + " of " + job.job.value,
          "it is " + std::string(epoch->control ? "of the test-only control" : name(epoch->state)) +
              "; only a committed one can be exported"}));
    call->respond(json_response(export_json(job, *epoch)));
  });
}

void Api::export_output(const Call& call) {
  auto number = number_in(call->request.path[4], "epoch");
  auto piece = piece_of(call->request, 5);
  if (!number || !piece) return call->respond(error_response(400, (number ? piece.error() : number.error()).message()));
  with_job(call, [this, call, number = *number, offset = piece->offset](const Coordinator& core, Catalog&,
                                                                        const JobRecord& job) {
    const EpochRecord* epoch = find_epoch(core, job, Epoch{number});
    if (epoch == nullptr) return call->respond(error_response(no_checkpoint(job, number)));
    // What the guests had printed and the coordinator not stored yet is in their memory; it comes after the restart.
    const std::uint64_t left = epoch->output_offset - std::min(offset, epoch->output_offset);
    const std::size_t most = std::min<std::uint64_t>(left, limits_.log_bytes);
    call->on_worker([this, call, id = job.job, number, offset, most, left] {
      auto data = files_.read_output_of(id, Epoch{number}, offset, most);
      if (!data) return call->respond(error_response(data.error()));
      const bool last = data->size() < most || most == left;
      call->respond(bytes_response(std::move(*data), last));
    });
  });
}

void Api::export_image(const Call& call) {
  auto number = number_in(call->request.path[4], "epoch");
  auto piece = piece_of(call->request, 5);
  if (!number || !piece) return call->respond(error_response(400, (number ? piece.error() : number.error()).message()));
  with_job(call, [this, call, number = *number, piece = *piece](const Coordinator&, Catalog&, const JobRecord& job) {
    driver_.ask(
        [id = job.job, number, piece](RequestId request) {
          return ExportPiece{request,     id, Epoch{number}, piece.part, static_cast<std::uint32_t>(piece.guest),
                             piece.offset};
        },
        [call](const Result<Answer>& answer) {
          const auto* read = answer ? std::get_if<PieceRead>(&*answer) : nullptr;
          call->respond(read != nullptr ? bytes_response(read->data, read->last) : error_response(answer.error()));
        });
  });
}

void Api::begin_import(const Call& call) {
  auto document = document_of(call->request);
  if (!document) return call->respond(error_response(400, document.error().message()));
  const auto name = call->request.query.find("name");
  auto read = foreign_checkpoint(*document, name == call->request.query.end() ? "" : name->second);
  if (!read) return call->respond(error_response(400, read.error().message()));
  ask(
      call,
      [checkpoint = std::move(*read)](RequestId request) {
        return BeginImport{request, checkpoint};
      },
      [](const Answer& answer) {
        const auto* begun = std::get_if<ImportBegun>(&answer);
        return begun != nullptr ? json{{"job", begun->job.value}} : json::object();
      });
}

void Api::import_piece(const Call& call) {
  auto piece = piece_of(call->request, 3);
  if (!piece) return call->respond(error_response(400, piece.error().message()));
  ask(
      call,
      [call, piece = *piece](RequestId request) {
        return ImportPiece{
            request,      JobId{call->request.path[2]},  piece.part,     static_cast<std::uint32_t>(piece.guest),
            piece.offset, std::move(call->request.body), piece.last == 1};
      },
      [](const Answer&) { return json::object(); });
}

void Api::finish_import(const Call& call) {
  ask(
      call,
      [id = JobId{call->request.path[2]}](RequestId request) {
        return FinishImport{request, id};
      },
      [](const Answer& answer) {
        const auto* imported = std::get_if<Imported>(&answer);
        if (imported == nullptr) return json::object();
        return json{{"job", imported->job.value},
                    {"epoch", imported->epoch.epoch.value},
                    {"bytesRaw", imported->epoch.bytes_raw},
                    {"bytesStored", imported->epoch.bytes_stored}};
      });
}

void Api::abandon_import(const Call& call) {
  ask(
      call,
      [id = JobId{call->request.path[2]}](RequestId request) {
        return AbandonImport{request, id};
      },
      [](const Answer&) { return json::object(); });
}

}  // namespace stillpoint::coordinator
