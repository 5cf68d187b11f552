#include "coordinator/core/tests/names.h"

#include <fmt/format.h>

#include "common/failure.h"

namespace stillpoint::coordinator::testing {
namespace {

template <class... Fs>
struct Cases : Fs... {
  using Fs::operator()...;
};
template <class... Fs>
Cases(Fs...) -> Cases<Fs...>;

const char* body(const wire::ToHost& m) {
  using T = wire::ToHost;
  switch (m.body_case()) {
    case T::kWelcome: return "Welcome";
    case T::kPing: return "Ping";
    case T::kStartGuests: return "StartGuests";
    case T::kPutFile: return "PutJobFile";
    case T::kFetchFile: return "FetchFile";
    case T::kLaunchJob: return "LaunchJob";
    case T::kLaunchDaemon: return "LaunchDaemon";
    case T::kAnswerLaunch: return "AnswerLaunch";
    case T::kExamine: return m.examine().again() ? "ExamineGang again" : "ExamineGang";
    case T::kClose: return "CloseGang";
    case T::kCount: return "CountGang";
    case T::kFreeze: return "FreezeGang";
    case T::kThaw: return "ThawGang";
    case T::kPrepareCapture: return "PrepareCapture";
    case T::kCapture: return "CaptureGang";
    case T::kRelease: return m.release().discard() ? "ReleaseGang discard" : "ReleaseGang";
    case T::kDeleteImages: return "DeleteImages";
    case T::kRestore: return "RestoreGuests";
    case T::kResume: return "ResumeGuests";
    case T::kCheckLinks: return "CheckGangLinks";
    case T::kDestroy: return "DestroyGang";
    case T::kStop: return "StopJob";
    case T::kQuery: return "QueryGang";
    case T::kAckOutput: return "AckOutput";
    case T::kReopen: return "ReopenGang";
    case T::kVerifyImages: return "VerifyImages";
    case T::kReadImage: return "ReadImage";
    case T::kWriteImage: return "WriteImage";
    case T::kKeepImages: return "KeepImages";
    case T::kCopyImages: return "CopyImages";
    case T::kKeepRecord: return "KeepRecord";
    case T::kReadRecords: return "ReadRecords";
    case T::BODY_NOT_SET: return "nothing";
  }
  return "?";
}

const char* body(const wire::FromHost& m) {
  using F = wire::FromHost;
  switch (m.body_case()) {
    case F::kHello: return "Hello";
    case F::kPong: return "Pong";
    case F::kDone: return "Done";
    case F::kGuestsStarted: return "GuestsStarted";
    case F::kRound: return "RoundReport";
    case F::kCut: return "CutReport";
    case F::kCapture: return "CaptureReport";
    case F::kRelease: return m.release().held() ? "ReleaseReport held" : "ReleaseReport not held";
    case F::kImages: return "ImageReport";
    case F::kLinks: return "LinksReport";
    case F::kRanks: return "RanksReport";
    case F::kFile: return "FilePiece";
    case F::kOutput: return "GuestOutput";
    case F::kLaunch: return "GuestLaunch";
    case F::kJobEnded: return "JobEnded";
    case F::kGuestLost: return "GuestLost";
    case F::kRankLost: return "RankLost";
    case F::kRankWished: return "RankWished";
    case F::kVerified: return "VerifyReport";
    case F::kImagesCopied: return "ImagesCopied";
    case F::kHeld: return "HeldImages";
    case F::kImagePiece: return "ImagePiece";
    case F::kImageWritten: return "ImageWritten";
    case F::kImagesKept: return "ImagesKept";
    case F::kRecords: return "Records";
    case F::BODY_NOT_SET: return "failure";
  }
  return "?";
}

template <class M>
std::string addressed(const M& m) {
  std::string text = body(m);
  if (!m.gang().job().empty()) text += fmt::format(" {}.{}", m.gang().job(), m.gang().incarnation());
  if (m.epoch() != 0) text += fmt::format(" e{}", m.epoch());
  return text;
}

std::string change(const CatalogChange& one) {
  return std::visit(
      Cases{[](const PutJob& c) {
              return fmt::format("job {} {} incarnation {}{}", c.job.job.value, name(c.job.state),
                                 c.job.incarnation.value, c.job.reason.empty() ? "" : " (" + c.job.reason + ")");
            },
            [](const DropJob& c) { return "drop " + c.job.value; },
            [](const PutEpoch& c) { return fmt::format("epoch {} {}", c.epoch.epoch.value, name(c.epoch.state)); },
            [](const PutHost& c) {
              return fmt::format("host {}{}", c.host.host.value, c.host.cordoned ? " cordoned" : "");
            },
            [](const PutCounters& c) {
              return fmt::format("counters {} {} {}", c.next_job, c.next_epoch.value, c.next_vni);
            },
            [](const DropEpoch& c) { return fmt::format("drop epoch {}", c.epoch.value); },
            [](const FoundJob& c) { return fmt::format("job {} is found again", c.number); },
            [](const AddLostJobs& c) { return fmt::format("lost jobs {} to {}", c.numbers.first, c.numbers.last); },
            [](const AddEvent& c) {
              return fmt::format("\"{}{}\"", c.event.what, c.event.detail.empty() ? "" : ": " + c.event.detail);
            }},
      one);
}

std::string answer(const Answer& one) {
  return std::visit(
      Cases{
          [](const Submitted& a) { return fmt::format("submitted {}", a.job.value); },
          [](const CheckpointTaken& a) {
            return fmt::format("checkpoint {} taken, stall {} ms", a.epoch.epoch.value, a.epoch.stall_ms);
          },
          [](const Restarted& a) {
            return fmt::format("{} restarted from {} as incarnation {}", a.job.value, a.epoch.value,
                               a.incarnation.value);
          },
          [](const Ranks& a) { return fmt::format("{} ranks", a.ranks.size()); },
          [](const Verified& a) { return fmt::format("{} checkpoints of {} verified", a.epochs.size(), a.job.value); },
          [](const Pruned& a) { return fmt::format("{} checkpoints of {} pruned", a.pruned.size(), a.job.value); },
          [](const ImportBegun& a) { return "import begun as " + a.job.value; },
          [](const Imported& a) { return "imported " + a.job.value; },
          [](const PieceRead& a) { return fmt::format("{} bytes{}", a.data.size(), a.last ? ", last" : ""); },
          [](const Rebuilt& a) {
            return fmt::format("{} jobs rebuilt, {} problems", a.jobs.size(), a.problems.size());
          },
          [](const Acknowledged&) { return std::string("acknowledged"); }},
      one);
}

}  // namespace

std::string describe(const wire::ToHost& message) { return addressed(message); }

std::string describe(const wire::FromHost& message) {
  return addressed(message) + (message.has_failure() ? " failed: " + from_wire(message.failure()).message() : "");
}

std::string describe(const Event& event) {
  return std::visit(
      Cases{
          [](const HostConnected& e) { return e.host.value + " connected"; },
          [](const HostDisconnected& e) { return e.host.value + " disconnected"; },
          [](const HostSpoke& e) { return e.host.value + ": " + describe(e.message); },
          [](const SubmitJob& e) { return "client: submit " + e.spec.name; },
          [](const CheckpointJob& e) { return "client: checkpoint " + e.job.value; },
          [](const RestartJob& e) { return "client: restart " + e.job.value; },
          [](const StopJob& e) { return "client: stop " + e.job.value; },
          [](const RemoveJob& e) { return "client: remove " + e.job.value; },
          [](const VerifyJob& e) { return "client: verify " + e.job.value; },
          [](const PruneJob& e) { return "client: prune " + e.job.value; },
          [](const BeginImport& e) { return "client: import " + e.checkpoint.spec.name; },
          [](const ImportPiece& e) { return fmt::format("client: piece of {} at {}", e.job.value, e.offset); },
          [](const FinishImport& e) { return "client: finish import " + e.job.value; },
          [](const AbandonImport& e) { return "client: give up import " + e.job.value; },
          [](const ExportPiece& e) { return fmt::format("client: export {} at {}", e.job.value, e.offset); },
          [](const RebuildCatalog&) { return std::string("client: rebuild the catalog"); },
          [](const CordonHost& e) {
            return fmt::format("client: {} {}", e.cordoned ? "cordon" : "uncordon", e.host.value);
          },
          [](const QueryRanks& e) { return "client: ranks of " + e.job.value; },
          [](const SpoolRead& e) { return fmt::format("spool: {} at {}{}", e.file, e.offset, e.last ? ", last" : ""); },
          [](const OutputDurable& e) { return fmt::format("output of {} durable to {}", e.job.value, e.offset); },
          [](const OutputFailed& e) { return "output failed: " + e.error.message(); },
          [](const OutputPieceStored& e) {
            return fmt::format("{} at {} {}", e.file, e.offset,
                               e.error ? "not stored: " + e.error->message() : "stored");
          },
          [](const Tick&) { return std::string("tick"); }},
      event);
}

std::string describe(const Effect& effect) {
  return std::visit(
      Cases{[](const Persist& e) {
              std::string text = "persist";
              for (const auto& one : e.changes) text += (text == "persist" ? " " : "; ") + change(one);
              return text;
            },
            [](const Send& e) { return "to " + e.host.value + ": " + describe(whole_message(e)); },
            [](const CloseSession& e) { return fmt::format("close session of {}: {}", e.host.value, e.why); },
            [](const Reply& e) {
              return "reply: " + (e.answer.has_value() ? answer(e.answer.value()) : e.answer.error().message());
            },
            [](const AppendOutput& e) { return fmt::format("append {} bytes at {}", e.data.size(), e.offset); },
            [](const KeepOutput& e) { return fmt::format("keep the output of epoch {}", e.epoch.value); },
            [](const DropOutput& e) { return fmt::format("drop the output of epoch {}", e.epoch.value); },
            [](const TruncateOutput& e) { return fmt::format("truncate output to {}", e.offset); },
            [](const MeasureOutput&) { return std::string("measure output"); },
            [](const ReadSpool& e) { return fmt::format("read {} at {}", e.file, e.offset); },
            [](const StoreOutputPiece& e) {
              return fmt::format("store {} at {}{}", e.file, e.offset, e.last ? ", last" : "");
            },
            [](const DropOutputPieces& e) { return "drop the pieces of " + e.file; },
            [](const DropJobFiles&) { return std::string("drop the job's files"); },
            [](const Log& e) { return fmt::format("log {}: {}", e.event.what, e.event.detail); },
            [](const JobChanged& e) { return e.job.value + " changed"; }},
      effect);
}

std::string describe(const CatalogState& state) {
  std::string text = fmt::format("next {} {} {}\n", state.next_job, state.next_epoch.value, state.next_vni);
  for (const auto& [id, j] : state.jobs) {
    text += fmt::format("{} {} {} i{} vni{} from{} restarts{} ({}, {}) exit{} stopping{} attempt{}", id.value,
                        name(j.state), j.reason, j.incarnation.value, j.vni, j.restored_from.value, j.restarts,
                        j.automatic_restarts, j.setbacks, j.exit_code.value_or(-1), j.stopping,
                        j.attempt.value_or(Epoch{}).value);
    for (const auto& missing : j.missing_outputs) text += " missing " + missing;
    if (j.restart) {
      text += fmt::format(" restart{}{}", j.restart->epoch_named ? " named" : "",
                          j.restart->skip_link_check ? " unchecked" : "");
      if (j.restart->automatic) text += " automatic";
      if (j.restart->suspect) text += " not " + j.restart->suspect->value;
      for (const auto& host : j.restart->hosts) text += " at " + host.value;
    }
    for (const auto& p : j.placement) text += fmt::format(" {}@{}", p.guest.value, p.host.value);
    text += "\n";
  }
  for (const auto& [number, e] : state.epochs)
    text += fmt::format("e{} {} {} {} i{} from{} cut{} images{} out{} {} {} verified{}\n", number.value, e.job.value,
                        name(e.state), e.reason, e.incarnation.value, e.restored_from.value, e.cut.size(),
                        e.images.size(), e.output_offset, e.bytes_stored, e.stall_ms, e.verified);
  for (const auto& [host, h] : state.hosts) text += fmt::format("{} {} {}\n", host.value, h.address, h.cordoned);
  return text;
}

}  // namespace stillpoint::coordinator::testing
