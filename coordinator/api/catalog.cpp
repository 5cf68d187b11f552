// The catalog's endpoints: a backup, made beside whatever the coordinator does; and what was lost, from hosts' records.
#include <nlohmann/json.hpp>

#include "coordinator/api/api.h"
#include "coordinator/api/reading.h"
#include "coordinator/api/views.h"
#include "coordinator/catalog/backup.h"
#include "coordinator/core/json_reader.h"

namespace stillpoint::coordinator {

void Api::back_up(const Call& call) {
  const auto document = document_of(call->request);
  if (!document) return call->respond(error_response(400, document.error().message()));
  std::string file;
  std::vector<std::string> problems;
  JsonReader reader(*document, "", problems);
  reader.read("file", file, true);
  reader.refuse_unknown();
  if (!problems.empty()) return call->respond(error_response(400, join_problems(problems)));
  call->on_worker([this, call, file] {
    const auto bytes = back_up_catalog(catalog_, file);
    call->respond(bytes ? json_response({{"file", file}, {"bytes", *bytes}}) : error_response(bytes.error()));
  });
}

void Api::rebuild(const Call& call) {
  if (const auto document = document_of(call->request); !document || !document->empty())
    return call->respond(
        error_response(400, document ? "expected an empty JSON object or no body" : document.error().message()));
  ask(
      call, [](RequestId request) { return RebuildCatalog{request}; },
      [](const Answer& answer) {
        const auto* rebuilt = std::get_if<Rebuilt>(&answer);
        return rebuilt != nullptr ? rebuilt_json(*rebuilt) : nlohmann::json::object();
      });
}

}  // namespace stillpoint::coordinator
