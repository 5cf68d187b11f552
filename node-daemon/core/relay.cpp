#include "node-daemon/core/relay.h"

#include <algorithm>

namespace stillpoint::node {

using wire::ToHost;

std::string request_name(ToHost::BodyCase body) {
  switch (body) {
    case ToHost::kWelcome: return "welcome";
    case ToHost::kPing: return "ping";
    case ToHost::kStartGuests: return "start guests";
    case ToHost::kPutFile: return "put file";
    case ToHost::kFetchFile: return "fetch file";
    case ToHost::kLaunchJob: return "launch job";
    case ToHost::kLaunchDaemon: return "launch daemon";
    case ToHost::kAnswerLaunch: return "answer launch";
    case ToHost::kExamine: return "examine ranks";
    case ToHost::kClose: return "close gates";
    case ToHost::kCount: return "count round";
    case ToHost::kFreeze: return "freeze";
    case ToHost::kThaw: return "thaw";
    case ToHost::kPrepareCapture: return "prepare";
    case ToHost::kCapture: return "capture";
    case ToHost::kRelease: return "release";
    case ToHost::kDeleteImages: return "delete images";
    case ToHost::kRestore: return "restore";
    case ToHost::kResume: return "resume";
    case ToHost::kCheckLinks: return "check links";
    case ToHost::kDestroy: return "destroy gang";
    case ToHost::kStop: return "stop job";
    case ToHost::kQuery: return "query ranks";
    case ToHost::kAckOutput: return "acknowledge output";
    case ToHost::kReopen: return "reopen gates";
    case ToHost::kVerifyImages: return "verify images";
    case ToHost::kReadImage: return "read image";
    case ToHost::kWriteImage: return "write image";
    case ToHost::kKeepImages: return "keep images";
    case ToHost::kCopyImages: return "copy images";
    case ToHost::kKeepRecord: return "keep record";
    case ToHost::kReadRecords: return "read records";
    case ToHost::BODY_NOT_SET: break;
  }
  return "request without a body";
}

std::string request_key(const ToHost& ask) {
  std::string key =
      std::to_string(ask.body_case()) + "/" + std::to_string(ask.epoch()) + "/" + std::to_string(ask.step());
  auto add = [&key](const auto& part) {
    if constexpr (std::is_convertible_v<decltype(part), std::string>) key += "/" + part;
    else key += "/" + std::to_string(part);
  };
  if (ask.has_put_file()) {
    add(ask.put_file().piece().path());
    add(ask.put_file().piece().offset());
  } else if (ask.has_fetch_file()) {
    add(ask.fetch_file().guest());
    add(ask.fetch_file().read().path());
    add(ask.fetch_file().read().offset());
  } else if (ask.has_launch_daemon()) {
    add(ask.launch_daemon().guest());
    add(ask.launch_daemon().daemon().launch());
  } else if (ask.has_answer_launch()) {
    add(ask.answer_launch().outcome().launch());
  } else if (ask.has_count()) {
    add(ask.count().round());
  } else if (ask.has_examine()) {
    add(ask.examine().again() ? 1 : 0);
  } else if (ask.has_release()) {
    add(ask.release().discard() ? 1 : 0);
  }
  return key;
}

milliseconds request_deadline(const ToHost& ask) {
  using std::chrono::seconds;
  switch (ask.body_case()) {
    case ToHost::kStartGuests: return seconds(170);
    case ToHost::kRestore: return seconds(170);
    case ToHost::kResume: return seconds(60);
    case ToHost::kPrepareCapture: return std::chrono::minutes(10);
    case ToHost::kCapture: return seconds(30);
    case ToHost::kExamine: return seconds(5);
    case ToHost::kClose: return milliseconds(ask.close().deadline_ms()) + seconds(3);
    case ToHost::kCount: return seconds(5);
    case ToHost::kFreeze: return milliseconds(ask.freeze().settle_ms()) + seconds(10);
    case ToHost::kReopen: return seconds(5);
    case ToHost::kThaw: return seconds(10);
    case ToHost::kRelease: return seconds(15);
    case ToHost::kCheckLinks: return milliseconds(ask.check_links().deadline_ms()) + seconds(5);
    case ToHost::kStop: return milliseconds(ask.stop().grace_ms()) + seconds(10);
    case ToHost::kQuery: return seconds(5);
    default: return seconds(30);
  }
}

bool is_relayed(const ToHost& ask) {
  switch (ask.body_case()) {
    case ToHost::kPutFile:
    case ToHost::kFetchFile:
    case ToHost::kLaunchJob:
    case ToHost::kLaunchDaemon:
    case ToHost::kAnswerLaunch:
    case ToHost::kExamine:
    case ToHost::kClose:
    case ToHost::kReopen:
    case ToHost::kCount:
    case ToHost::kFreeze:
    case ToHost::kThaw:
    case ToHost::kRelease:
    case ToHost::kCheckLinks:
    case ToHost::kStop:
    case ToHost::kQuery: return true;
    default: return false;
  }
}

std::vector<std::uint32_t> request_targets(const ToHost& ask, const std::vector<std::uint32_t>& local) {
  auto only = [&local](std::uint32_t guest) {
    return std::ranges::find(local, guest) == local.end() ? std::vector<std::uint32_t>{} : std::vector{guest};
  };
  if (ask.has_fetch_file()) return only(ask.fetch_file().guest());
  if (ask.has_launch_daemon()) return only(ask.launch_daemon().guest());
  if (ask.has_launch_job() || ask.has_answer_launch()) return only(0);  // mpirun runs there
  return local;
}

wire::GuestRequest guest_request(const ToHost& ask, std::uint32_t guest) {
  wire::GuestRequest request;
  *request.mutable_gang() = ask.gang();
  request.set_epoch(ask.epoch());
  request.set_step(ask.step());
  switch (ask.body_case()) {
    case ToHost::kPutFile: *request.mutable_put_file() = ask.put_file().piece(); break;
    case ToHost::kFetchFile: *request.mutable_read_file() = ask.fetch_file().read(); break;
    case ToHost::kLaunchJob: *request.mutable_start_job() = ask.launch_job().start(); break;
    case ToHost::kLaunchDaemon: *request.mutable_start_daemon() = ask.launch_daemon().daemon(); break;
    case ToHost::kAnswerLaunch: *request.mutable_launch_outcome() = ask.answer_launch().outcome(); break;
    case ToHost::kExamine: request.mutable_examine_ranks(); break;
    case ToHost::kClose: {
      auto& close = *request.mutable_close_gates();
      close.set_deadline_ms(ask.close().deadline_ms());
      close.set_hold_ms(ask.close().hold_ms());
      close.set_defer_ms(ask.close().defer_ms());
      for (const auto& expected : ask.close().expected())
        if (expected.guest() == guest) close.set_expected_ranks(expected.ranks());
      break;
    }
    case ToHost::kReopen: request.mutable_reopen_gates(); break;
    case ToHost::kCount: request.mutable_count_round(); break;
    case ToHost::kFreeze: request.mutable_freeze_ranks()->set_settle_ms(ask.freeze().settle_ms()); break;
    case ToHost::kThaw: request.mutable_thaw_ranks(); break;
    case ToHost::kRelease: request.mutable_release_ranks(); break;
    case ToHost::kCheckLinks: request.mutable_check_links()->set_deadline_ms(ask.check_links().deadline_ms()); break;
    case ToHost::kStop: request.mutable_stop_ranks()->set_grace_ms(ask.stop().grace_ms()); break;
    case ToHost::kQuery: request.mutable_query_ranks(); break;
    default: break;
  }
  return request;
}

wire::FromHost combined_answer(const ToHost& ask, const GuestReplies& replies) {
  wire::FromHost answer;
  switch (ask.body_case()) {
    case ToHost::kClose:
    case ToHost::kCount:
      for (const auto& [guest, reply] : replies) {
        auto& round = *answer.mutable_round()->add_guests();
        round.set_guest(guest);
        *round.mutable_figures() = reply.round();
      }
      break;
    case ToHost::kFreeze:
      for (const auto& [guest, reply] : replies) {
        auto& cut = *answer.mutable_cut()->add_guests();
        cut = reply.cut();
        cut.set_guest(guest);
      }
      break;
    case ToHost::kRelease:
      answer.mutable_release()->set_held(
          std::ranges::all_of(replies, [](const auto& entry) { return entry.second.release().held(); }));
      break;
    case ToHost::kCheckLinks:
      for (const auto& [guest, reply] : replies) {
        auto& links = *answer.mutable_links()->add_guests();
        links.set_guest(guest);
        *links.mutable_links() = reply.links();
      }
      break;
    case ToHost::kQuery:
      answer.mutable_ranks();
      for (const auto& [guest, reply] : replies)
        for (const auto& rank : reply.ranks().ranks()) *answer.mutable_ranks()->add_ranks() = rank;
      break;
    case ToHost::kFetchFile:
      for (const auto& [guest, reply] : replies) *answer.mutable_file()->mutable_data() = reply.file();
      break;
    default: answer.mutable_done(); break;
  }
  return answer;
}

}  // namespace stillpoint::node
