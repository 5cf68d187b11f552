#include "coordinator/core/tests/fake_host.h"

#include <fmt/format.h>

#include <algorithm>

#include "common/failure.h"

namespace stillpoint::coordinator::testing {
namespace {

constexpr std::uint32_t kNetwork = (10u << 24) | (99u << 16);

std::uint32_t address_of(std::uint32_t guest) { return kNetwork + 1 + guest; }

std::string image_path(const FakeGang& gang, std::uint64_t epoch, std::uint32_t guest) {
  return fmt::format("{}/e{}/guest-{}", gang.job.value, epoch, guest);
}

}  // namespace

bool names(const std::set<std::string>& images, const wire::ImageFile& file) {
  return images.contains(file.path()) || images.contains(key_of(file));
}

std::string key_of(const wire::ImageFile& file) {
  const std::string& path = file.path();
  return path.starts_with("h") ? path.substr(path.find('/') + 1) : path;
}

bool FakeGang::works() const {
  return (launched || restored_from != 0 || !guests.contains(0)) && !ended &&
         std::all_of(guests.begin(), guests.end(),
                     [](const auto& g) { return g.second.running && !g.second.held && !g.second.frozen; });
}

wire::HostHello FakeHost::hello() const {
  wire::HostHello hello;
  hello.set_protocol(1);
  hello.set_host(name.value);
  hello.set_address("192.0.2." + name.value.substr(1));
  hello.set_accelerator("tcg");
  hello.set_capture_mode("background-snapshot");
  hello.set_cpus(2);
  hello.set_memory_bytes(memory);
  hello.set_memory_free_bytes(memory);
  hello.set_store_is_own(own_images);
  hello.set_store_id(own_images ? name.value : "shared");
  if (own_images) hello.set_store_endpoint("192.0.2." + name.value.substr(1) + ":7444");
  hello.set_domain(domain);
  hello.set_object_store(object_store);
  hello.set_image_free_bytes(image_free);
  hello.mutable_store()->set_reserve_bytes(image_reserve);
  for (const auto& [key, gang] : gangs) {
    auto& presence = *hello.add_gangs();
    presence.mutable_gang()->set_job(gang.job.value);
    presence.mutable_gang()->set_incarnation(gang.incarnation);
    for (const auto& [index, guest] : gang.guests) {
      presence.add_guests(index);
      if (guest.held || guest.frozen) presence.set_held_epoch(guest.epoch);
    }
    if (!gang.images.empty()) presence.set_captured_epoch(gang.images.rbegin()->first);
  }
  return hello;
}

void FakeHost::connected(SessionId number, Time now) {
  session = number;
  heard = now;
  out.clear();
  for (auto& [key, gang] : gangs) {
    gang.reported.clear();
    if (auto zero = gang.guests.find(0); zero != gang.guests.end()) gang.output_next = zero->second.state.output_acked;
    gang.output_sent = Time{};
  }
}

FakeGang* FakeHost::gang(const JobId& job) {
  FakeGang* newest = nullptr;
  for (auto& [key, gang] : gangs)
    if (key.first == job) newest = &gang;
  return newest;
}

void FakeHost::lose_power() {
  power = false;
  session.reset();
  gangs.clear();
  destroyed.clear();
  out.clear();
}

wire::FromHost FakeHost::of(const FakeGang& gang, std::uint64_t epoch) const {
  wire::FromHost message;
  message.mutable_gang()->set_job(gang.job.value);
  message.mutable_gang()->set_incarnation(gang.incarnation);
  message.set_epoch(epoch);
  return message;
}

void FakeHost::answer(const wire::ToHost& ask, wire::FromHost message) {
  message.set_request(ask.request());
  *message.mutable_gang() = ask.gang();
  message.set_epoch(ask.epoch());
  out.push_back(std::move(message));
}

void FakeHost::refuse(const wire::ToHost& ask, ErrorKind kind, const std::string& cause) {
  wire::FromHost message;
  *message.mutable_failure() = to_wire(Error{kind, "request", ask.gang().job(), cause});
  answer(ask, std::move(message));
}

// A page is one record.
void FakeHost::read_records(const wire::ToHost& ask) {
  wire::FromHost message;
  auto& page = *message.mutable_records();
  std::map<std::string, std::string> all;
  const bool of_all = ask.read_records().where() == wire::ReadRecords::DIRECTORY && !own_images;
  for (const auto& [keeper, records] : store_.records)
    for (const auto& [key, record] : records)
      if (of_all || keeper == name)
        all[fmt::format("{}/{}/{:020}", keeper.value, key.first.value, key.second)] = record.record();
  if (const auto next = all.upper_bound(ask.read_records().after()); next != all.end()) {
    page.add_records(next->second);
    page.set_last(next->first);
  }
  answer(ask, std::move(message));
}

void FakeHost::on(const wire::ToHost& ask, Time now) {
  heard = now;
  if (ask.has_welcome()) {
    lease = milliseconds(ask.welcome().lease_ms());
    return;
  }
  if (ask.has_ping()) {
    wire::FromHost pong;
    pong.mutable_pong()->set_number(ask.ping().number());
    pong.mutable_pong()->set_memory_free_bytes(memory);
    pong.mutable_pong()->set_image_free_bytes(image_free);
    pong.mutable_pong()->mutable_store()->set_reserve_bytes(image_reserve);
    out.push_back(pong);
    return;
  }
  if (script_.swallow && script_.swallow(name, ask)) return;
  if (script_.failure)
    if (auto error = script_.failure(name, ask)) {
      wire::FromHost message;
      *message.mutable_failure() = to_wire(*error);
      return answer(ask, std::move(message));
    }
  wire::FromHost done;
  done.mutable_done();
  const JobId job{ask.gang().job()};
  if (ask.has_delete_images()) {
    done.mutable_done()->set_freed_bytes(delete_images(job, ask.delete_images()));
    return answer(ask, done);
  }
  if (ask.has_verify_images()) return verify(ask, std::move(done));
  if (ask.has_read_image() || ask.has_write_image() || ask.has_keep_images()) return transfer(ask);
  if (ask.has_copy_images()) return copy(ask, std::move(done));
  if (ask.has_keep_record()) {
    store_.records[name][{job, ask.epoch()}] = ask.keep_record();
    return answer(ask, done);
  }
  if (ask.has_read_records()) return read_records(ask);
  if (ask.has_destroy()) {
    destroyed[job] = std::max(destroyed[job], ask.gang().incarnation());
    std::erase_if(gangs,
                  [&](const auto& e) { return e.first.first == job && e.first.second <= ask.gang().incarnation(); });
    return answer(ask, done);
  }
  std::uint64_t newest = destroyed.contains(job) ? destroyed[job] + 1 : 0;
  for (const auto& [key, g] : gangs)
    if (key.first == job) newest = std::max(newest, key.second);
  if (ask.gang().incarnation() < newest) {
    if (ask.request() != 0) refuse(ask, ErrorKind::refused, "stale incarnation");
    return;
  }
  if (ask.has_start_guests() || ask.has_restore()) return make(ask);
  const auto found = gangs.find({job, ask.gang().incarnation()});
  if (found != gangs.end()) return gang_request(found->second, ask, now);
  if (ask.request() != 0) refuse(ask, ErrorKind::not_found, "this host runs no guest of it");
}

void FakeHost::make(const wire::ToHost& ask) {
  const JobId job{ask.gang().job()};
  const auto& network = ask.has_restore() ? ask.restore().network() : ask.start_guests().network();
  std::erase_if(gangs,
                [&](const auto& e) { return e.first.first == job && e.first.second < ask.gang().incarnation(); });
  if (ask.has_restore())
    for (const auto& image : ask.restore().images()) {
      if (!store_.images.contains(key_of(image.memory())))
        return refuse(ask, ErrorKind::damaged, image.memory().path() + " is gone");
      if (names(store_.damaged, image.memory()))
        return refuse(ask, ErrorKind::damaged, image.memory().path() + " does not match");
    }
  const bool fresh = !gangs.contains({job, ask.gang().incarnation()});
  auto& gang = gangs[{job, ask.gang().incarnation()}];
  gang.job = job;
  gang.incarnation = ask.gang().incarnation();
  gang.size = static_cast<std::uint32_t>(network.places_size());
  wire::FromHost message;
  if (ask.has_restore()) {
    gang.restored_from = ask.epoch();
    for (const auto& image : ask.restore().images()) {
      auto& guest = gang.guests[image.guest()];
      if (!fresh) continue;
      guest.state = store_.images.at(key_of(image.memory()));
      guest.held = guest.frozen = true;
      guest.epoch = ask.epoch();
      gang.output_next = guest.state.output_acked;
    }
    message.mutable_done();
  } else {
    for (auto index : ask.start_guests().guests()) {
      auto& guest = gang.guests[index];
      message.mutable_guests_started()->add_boot_ids(fmt::format("boot-{}", index));
      if (!fresh) continue;
      guest.running = true;
      for (std::uint32_t peer = 0; peer < gang.size; ++peer)
        if (peer != index) guest.state.acked[peer] = guest.state.received[peer] = 0;
    }
    message.mutable_guests_started();
  }
  answer(ask, std::move(message));
}

wire::GuestCut FakeHost::cut(const FakeGang& gang, std::uint32_t index) {
  wire::GuestCut cut;
  cut.set_guest(index);
  const auto& state = gang.guests.at(index).state;
  for (const auto& [peer, acked] : state.acked) {
    auto& s = *cut.add_sockets();
    const bool opener = index < peer;
    s.set_local_ip(address_of(index));
    s.set_remote_ip(address_of(peer));
    s.set_local_port(opener ? 1000 + peer : 2000);
    s.set_remote_port(opener ? 2000 : 1000 + index);
    s.set_state(1);
    s.set_bytes_acked(acked + (opener ? 1 : 0));
    s.set_bytes_received(state.received.at(peer));
  }
  if (index == 0) cut.set_output_offset(state.output.size());
  return cut;
}

wire::RoundFigures FakeHost::round(const FakeGang& gang, std::uint32_t index) {
  wire::RoundFigures figures;
  if (script_.never_equal) figures.set_mpi_calls(++noise_);
  if (script_.busy_rounds > 0) {
    --script_.busy_rounds;
    figures.set_busy(true);
  }
  for (const auto& [peer, acked] : gang.guests.at(index).state.acked)
    figures.set_bytes_acked(figures.bytes_acked() + acked);
  auto& rank = *figures.add_ranks();
  rank.set_rank(index);
  rank.set_guest(index);
  rank.set_state(wire::RankReport::GATED);
  return figures;
}

void FakeHost::capture(FakeGang& gang, const wire::ToHost& ask, Time now) {
  const auto epoch = ask.epoch();
  if (gang.discarded.contains(epoch)) return refuse(ask, ErrorKind::refused, "this epoch was discarded here");
  if (!gang.prepared.contains(epoch)) return refuse(ask, ErrorKind::refused, "it was not prepared here");
  const wire::Durability& durability = gang.prepared.at(epoch);
  wire::FromHost message;
  auto& report = *message.mutable_capture();
  for (auto& [index, guest] : gang.guests) {
    auto& g = *report.add_guests();
    g.set_guest(index);
    g.set_pause_ms(5);
    g.set_capture_ms(20);
    if (gang.images.contains(epoch)) continue;
    gang.uploading[epoch][index] = now + script_.upload;
  }
  if (!gang.images.contains(epoch))
    for (auto& [index, guest] : gang.guests) {
      auto& image = *gang.images[epoch].add_images();
      image.set_guest(index);
      image.mutable_memory()->set_path(name.value + "/" + image_path(gang, epoch, index));
      if (own_images && durability.partners_size() > 0)
        image.mutable_memory()->add_copies(durability.partners(0).host());
      *image.mutable_disk() = image.memory();
      image.mutable_memory()->set_raw_bytes(1000);
      image.mutable_memory()->set_stored_bytes(100);
      store_.images[image_path(gang, epoch, index)] = guest.state;
      store_.space[name].insert(image_path(gang, epoch, index));
    }
  answer(ask, std::move(message));
}

void FakeHost::discard(FakeGang& gang, std::uint64_t epoch) {
  gang.discarded.insert(epoch);
  gang.images.erase(epoch);
  gang.uploading.erase(epoch);
  for (const auto& [index, guest] : gang.guests) store_.images.erase(image_path(gang, epoch, index));
  free_space();
}

std::uint64_t FakeHost::delete_images(const JobId& job, const wire::DeleteImages& what) {
  const std::size_t before = store_.space[name].size();
  for (auto epoch : what.epochs())
    std::erase_if(store_.images, [&](const auto& image) {
      return image.first.starts_with(fmt::format("{}/e{}/", job.value, epoch)) &&
             (what.all_hosts() || store_.space[name].contains(image.first));
    });
  free_space();
  return 100 * (before - store_.space[name].size());
}

// An image's bytes are its path, in two pieces.
void FakeHost::transfer(const wire::ToHost& ask) {
  wire::FromHost message;
  if (ask.has_read_image()) {
    const std::string& path = ask.read_image().file().path();
    if (!store_.images.contains(key_of(ask.read_image().file()))) return refuse(ask, ErrorKind::damaged, "it is gone");
    const std::size_t offset = ask.read_image().offset();
    message.mutable_image_piece()->set_data(path.substr(offset, offset == 0 ? 3 : std::string::npos));
    message.mutable_image_piece()->set_last(offset != 0);
  } else if (ask.has_write_image()) {
    const auto& piece = ask.write_image();
    written_[{ask.gang().job(), piece.guest(), piece.disk()}] += piece.data();
    message.mutable_image_written();
    if (piece.last()) {
      const std::string path = fmt::format("{}/e{}/guest-{}", ask.gang().job(), ask.epoch(), piece.guest());
      auto& file = *message.mutable_image_written()->mutable_file();
      file.set_path(name.value + "/" + path);
      file.set_raw_bytes(written_[{ask.gang().job(), piece.guest(), piece.disk()}].size());
      store_.images[path];
      store_.space[name].insert(path);
    }
  } else {
    for (const auto& image : ask.keep_images().images()) {
      auto& kept = *message.mutable_images_kept()->add_images() = image;
      for (auto* file : {kept.mutable_memory(), kept.mutable_disk()})
        file->add_copies(own_images ? ask.keep_images().durability().partners(0).host() : "dir:shared");
    }
  }
  answer(ask, std::move(message));
}

void FakeHost::verify(const wire::ToHost& ask, wire::FromHost message) {
  for (const auto& image : ask.verify_images().images()) {
    auto& check = *message.mutable_verified()->add_images();
    check.set_guest(image.guest());
    check.set_bytes(100);
    const std::string& path = image.memory().path();
    if (!store_.images.contains(key_of(image.memory())))
      *check.add_problems() = to_wire(Error{ErrorKind::damaged, "verify image", path, "it is gone"});
    else if (names(store_.damaged, image.memory()))
      *check.add_problems() =
          to_wire(Error{ErrorKind::damaged, "verify image", path, "a block is not what was written"});
    else if (names(store_.unreachable, image.memory()))
      *check.add_problems() = to_wire(Error{ErrorKind::transient, "verify image", path, "is it mounted here?"});
  }
  for (const auto& image : ask.verify_images().object_store()) {
    auto& check = *message.mutable_verified()->add_images();
    check.set_guest(image.guest());
    check.set_object_store(true);
    check.set_bytes(50);
    const std::string& path = image.memory().path();
    if (store_.object_store_down)
      *check.add_problems() = to_wire(Error{ErrorKind::transient, "list", path, "no answer"});
    else if (store_.damaged_in_object_store.contains(key_of(image.memory())))
      *check.add_problems() = to_wire(Error{ErrorKind::damaged, "verify image", path, "it is gone"});
  }
  answer(ask, std::move(message));
}

void FakeHost::copy(const wire::ToHost& ask, wire::FromHost message) {
  const auto& durability = ask.copy_images().durability();
  const std::string to = durability.level() == wire::Durability::SITE ? "s3" : durability.partners(0).host();
  for (const auto& image : ask.copy_images().images()) {
    auto& copied = *message.mutable_images_copied()->add_images();
    copied = image;
    copied.mutable_memory()->add_copies(to);
    copied.mutable_disk()->add_copies(to);
  }
  answer(ask, std::move(message));
}

void FakeHost::free_space() {
  std::erase_if(store_.space[name], [&](const std::string& path) { return !store_.images.contains(path); });
}

void FakeHost::gang_request(FakeGang& gang, const wire::ToHost& ask, Time now) {
  wire::FromHost message;
  message.mutable_done();
  const auto epoch = ask.epoch();
  for (auto& [index, guest] : gang.guests)
    if (guest.epoch == epoch) guest.hold_until = now + guest.hold;
  switch (ask.body_case()) {
    case wire::ToHost::kAckOutput: {
      const auto zero = gang.guests.find(0);
      if (zero != gang.guests.end() && !zero->second.frozen)
        zero->second.state.output_acked = std::max(zero->second.state.output_acked, ask.ack_output().offset());
      return;
    }
    case wire::ToHost::kPutFile:
      if (ask.put_file().piece().offset() <= gang.file.size())
        gang.file = gang.file.substr(0, ask.put_file().piece().offset()) + ask.put_file().piece().data();
      break;
    case wire::ToHost::kLaunchJob: {
      if (!gang.launched)
        for (std::uint32_t peer = 1; peer < gang.size; ++peer) {
          auto launch = of(gang);
          launch.mutable_launch()->set_guest(0);
          launch.mutable_launch()->mutable_launch()->set_launch(peer);
          launch.mutable_launch()->mutable_launch()->set_target(fmt::format("guest-{}", peer));
          launch.mutable_launch()->mutable_launch()->add_argv("prted");
          out.push_back(launch);
        }
      gang.launched = true;
      break;
    }
    case wire::ToHost::kLaunchDaemon: gang.daemons.insert(ask.launch_daemon().daemon().launch()); break;
    case wire::ToHost::kAnswerLaunch: gang.daemons.insert(ask.answer_launch().outcome().launch()); break;
    case wire::ToHost::kExamine: break;
    case wire::ToHost::kPrepareCapture:
      if (gang.discarded.contains(epoch)) return refuse(ask, ErrorKind::refused, "this epoch was discarded here");
      gang.prepared[epoch] = ask.prepare_capture().durability();
      break;
    case wire::ToHost::kClose:
    case wire::ToHost::kCount:
      for (auto& [index, guest] : gang.guests) {
        if (ask.has_close() && !guest.held) {
          guest.held = true;
          guest.epoch = epoch;
          guest.hold = milliseconds(ask.close().hold_ms());
          guest.hold_until = now + guest.hold;
        }
        if (!guest.held || guest.epoch != epoch) return refuse(ask, ErrorKind::deadline, "the epoch was lost");
        auto& figures = *message.mutable_round()->add_guests();
        figures.set_guest(index);
        *figures.mutable_figures() = round(gang, index);
        if (ask.has_close() && index == 1 && script_.deferring_closes > 0) {
          --script_.deferring_closes;
          figures.mutable_figures()->set_deferring(true);
          figures.mutable_figures()->set_cause("rank 1 is inside MPI_Comm_spawn on rows (2 processes) for 4.0 s");
        }
      }
      break;
    case wire::ToHost::kReopen:
      ++script_.reopened;
      for (auto& [index, guest] : gang.guests) guest.held = guest.frozen = false;
      break;
    case wire::ToHost::kFreeze:
      message.mutable_cut();
      for (auto& [index, guest] : gang.guests) {
        guest.frozen = true;
        guest.epoch = epoch;
        guest.hold_until = now + guest.hold;
        *message.mutable_cut()->add_guests() = cut(gang, index);
      }
      if (script_.unquiet_freezes > 0 && gang.guests.contains(0) && gang.size > 1) {
        --script_.unquiet_freezes;
        message.mutable_cut()->mutable_guests(0)->mutable_sockets(0)->set_unacked(1);
      }
      break;
    case wire::ToHost::kThaw:
      for (auto& [index, guest] : gang.guests) guest.frozen = false;
      break;
    case wire::ToHost::kCapture: return capture(gang, ask, now);
    case wire::ToHost::kRelease: {
      if (ask.release().discard()) discard(gang, epoch);
      if (!gang.released || gang.released->first != epoch) {
        bool held = true;
        for (auto& [index, guest] : gang.guests) {
          held = held && guest.epoch == epoch && guest.frozen;
          if (guest.epoch == epoch) guest.held = guest.frozen = false;
        }
        gang.released = {epoch, held};
      }
      message.mutable_release()->set_held(gang.released->second);
      if (!script_.hold_packet.empty() && !ask.release().discard()) {
        message.mutable_release()->set_packets(1);
        message.mutable_release()->set_first_packet(std::exchange(script_.hold_packet, ""));
      }
      break;
    }
    case wire::ToHost::kResume:
      for (auto& [index, guest] : gang.guests) guest.running = true;
      gang.launched = true;
      break;
    case wire::ToHost::kCheckLinks:
      message.mutable_links();
      for (auto& [index, guest] : gang.guests) {
        auto& links = *message.mutable_links()->add_guests();
        links.set_guest(index);
        for (std::uint32_t peer = 0; peer < gang.size; ++peer)
          if (peer != index) links.mutable_links()->add_reached(peer);
        *links.mutable_links()->mutable_cut() = cut(gang, index);
      }
      break;
    case wire::ToHost::kQuery:
      message.mutable_ranks();
      for (auto& [index, guest] : gang.guests) {
        auto& rank = *message.mutable_ranks()->add_ranks();
        rank.set_rank(index);
        rank.set_guest(index);
        rank.set_state(script_.failed_rank == index ? wire::RankReport::FAILED : wire::RankReport::COMPUTING);
      }
      break;
    case wire::ToHost::kFetchFile: {
      const auto& read = ask.fetch_file().read();
      if (script_.missing_outputs.contains(read.path())) return refuse(ask, ErrorKind::not_found, "no such file");
      message.mutable_file()->mutable_data()->set_data(fmt::format("{} at {}", read.path(), read.offset()));
      message.mutable_file()->mutable_data()->set_end(read.offset() > 0);
      break;
    }
    case wire::ToHost::kStop: gang.ended = true; break;
    default: return refuse(ask, ErrorKind::refused, "unknown request");
  }
  answer(ask, std::move(message));
}

void FakeHost::send_output(FakeGang& gang, Time now) {
  const auto zero = gang.guests.find(0);
  if (zero == gang.guests.end() || !zero->second.running || zero->second.frozen) return;
  auto& state = zero->second.state;
  if (now >= gang.output_sent + milliseconds(1000)) gang.output_next = state.output_acked;  // not acknowledged: again
  if (gang.output_next >= state.output.size()) return;
  auto message = of(gang);
  message.mutable_output()->set_guest(0);
  message.mutable_output()->mutable_output()->set_offset(gang.output_next);
  message.mutable_output()->mutable_output()->set_data(state.output.substr(gang.output_next));
  if (gang.output_next == state.output_acked) gang.output_sent = now;  // as agents do: from there it is waited
  gang.output_next = state.output.size();
  out.push_back(std::move(message));
}

void FakeHost::tick(Time now) {
  if (!power) return;
  if (now >= heard + lease) gangs.clear();
  for (auto& [key, gang] : gangs) {
    for (auto& [index, guest] : gang.guests)
      if (guest.running && (guest.held || guest.frozen) && guest.epoch != gang.restored_from &&
          now >= guest.hold_until) {
        guest.held = guest.frozen = false;
        guest.epoch = 0;
      }
    if (!session || partitioned) continue;
    for (const auto& [epoch, report] : gang.images) {
      if (gang.reported[epoch]) continue;
      const auto& waits = gang.uploading[epoch];
      if (std::any_of(waits.begin(), waits.end(), [&](const auto& w) { return now < w.second; })) continue;
      gang.reported[epoch] = true;
      auto message = of(gang, epoch);
      *message.mutable_images() = report;
      out.push_back(std::move(message));
    }
    send_output(gang, now);
    const bool over = gang.ended || (script_.last_step != 0 && gang.guests.contains(0) &&
                                     gang.guests.at(0).state.step >= script_.last_step);
    if (over && gang.guests.contains(0) && !gang.reported[0] && !gang.guests.at(0).frozen) {
      gang.ended = gang.reported[0] = true;
      auto message = of(gang);
      message.mutable_job_ended()->mutable_exited()->set_exit_code(script_.exit_code);
      message.mutable_job_ended()->mutable_exited()->set_output_offset(gang.guests.at(0).state.output.size());
      out.push_back(std::move(message));
    }
  }
}

}  // namespace stillpoint::coordinator::testing
