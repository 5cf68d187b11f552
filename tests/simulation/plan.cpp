#include "tests/simulation/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <sstream>

#include "tests/simulation/dice.h"

namespace stillpoint::simulation {
namespace {

enum Has : unsigned { none = 0, host = 1, job = 2, value = 4 };

struct Kind {
  What what;
  const char* name;
  unsigned has;
  unsigned weight;  // of its being drawn
  std::uint64_t least, most;
};

constexpr std::array kKinds = {
    Kind{What::submit, "submit", job, 0, 0, 0},
    Kind{What::checkpoint, "checkpoint", job, 20, 0, 0},
    Kind{What::restart, "restart", job | value, 6, 0, 2},
    Kind{What::stop, "stop", job, 1, 0, 0},
    Kind{What::remove, "remove", job, 1, 0, 0},
    Kind{What::verify, "verify", job, 2, 0, 0},
    Kind{What::prune, "prune", job, 2, 0, 0},
    Kind{What::ranks, "ranks", job, 1, 0, 0},
    Kind{What::cordon, "cordon", host | value, 2, 1'000, 15'000},
    Kind{What::end, "end", job | value, 1, 0, 2},
    Kind{What::coordinator_crash, "coordinator-crash", value, 5, 50, 14'000},
    Kind{What::coordinator_crash_after, "coordinator-crash-after", value, 10, 1, 60},
    Kind{What::coordinator_pause, "coordinator-pause", value, 4, 500, 25'000},
    Kind{What::coordinator_disk_full, "coordinator-disk-full", value, 2, 200, 6'000},
    Kind{What::coordinator_disk_slow, "coordinator-disk-slow", value, 2, 1'000, 15'000},
    Kind{What::wall_clock, "wall-clock", value, 1, 10, 100'000},
    Kind{What::daemon_crash, "daemon-crash", host | value, 6, 50, 12'000},
    Kind{What::daemon_pause, "daemon-pause", host | value, 3, 500, 15'000},
    Kind{What::power_loss, "power-loss", host | value, 5, 1'000, 30'000},
    Kind{What::disk_loss, "disk-loss", host | value, 2, 3'000, 30'000},
    Kind{What::suspend, "suspend", host | value, 2, 500, 20'000},
    Kind{What::host_disk_full, "host-disk-full", host | value, 3, 500, 10'000},
    Kind{What::host_disk_slow, "host-disk-slow", host | value, 3, 1'000, 15'000},
    Kind{What::image_damage, "image-damage", host | job, 3, 0, 0},
    Kind{What::guest_dies, "guest-dies", job | value, 4, 0, 3},
    Kind{What::rank_killed, "rank-killed", job, 3, 0, 0},
    Kind{What::defer, "defer", job | value, 3, 1, 8},
    Kind{What::session_drop, "session-drop", host, 5, 0, 0},
    Kind{What::partition, "partition", host | value, 6, 500, 25'000},
    Kind{What::mute, "mute", host | value, 3, 500, 20'000},
    Kind{What::deafen, "deafen", host | value, 3, 500, 20'000},
    Kind{What::apart, "apart", host | value, 3, 500, 15'000},
};

const Kind& kind(What what) {
  return *std::find_if(kKinds.begin(), kKinds.end(), [&](const Kind& k) { return k.what == what; });
}

// Whole numbers of a shape, by their names in a file.
std::map<std::string, std::uint32_t*> numbers(Shape& shape) {
  return {{"hosts", &shape.hosts},
          {"guests", &shape.guests},
          {"guest-mib", &shape.guest_mib},
          {"interval", &shape.interval_seconds},
          {"keep", &shape.keep},
          {"max-restarts", &shape.max_restarts},
          {"lost", &shape.lost},
          {"doubled", &shape.doubled},
          {"overtaking", &shape.overtaking},
          {"seconds", &shape.seconds}};
}

// What is so or not, each a word on a line of its own.
std::map<std::string, bool*> flags(Shape& shape) {
  return {{"copied-later", &shape.copied_later},
          {"old-agents", &shape.old_agents},
          {"catalog-lost", &shape.catalog_lost},
          {"leases-change", &shape.leases_change},
          {"sizes-differ", &shape.sizes_differ},
          {"hosts-named", &shape.hosts_named},
          {"packed", &shape.packed},
          {"interval-auto", &shape.interval_auto}};
}

Shape draw_shape(std::uint64_t seed, Dice& dice) {
  Shape shape;
  shape.seed = seed;
  shape.hosts = static_cast<std::uint32_t>(2 + dice.roll(4));
  shape.guests = static_cast<std::uint32_t>(1 + dice.roll(3));
  shape.guest_mib = dice.roll(3) == 0 ? 2048 : 1024;
  shape.own_stores = dice.roll(2) == 0;
  if (dice.roll(3) == 0) {
    shape.durability = "local";
    shape.copied_later = dice.roll(2) == 0;
  }
  if (dice.roll(3) == 0) shape.interval_seconds = static_cast<std::uint32_t>(3 + dice.roll(5));
  shape.keep = static_cast<std::uint32_t>(1 + dice.roll(3));
  if (dice.roll(5) == 0) shape.max_restarts = 0;
  if (dice.roll(4) == 0) {
    shape.lost = static_cast<std::uint32_t>(dice.roll(8));
    shape.doubled = static_cast<std::uint32_t>(dice.roll(60));
    shape.overtaking = static_cast<std::uint32_t>(dice.roll(60));
  }
  shape.seconds = static_cast<std::uint32_t>(8 + dice.roll(14));
  // Of their own: all else stays as it was drawn.
  shape.old_agents = Dice(seed, 4).roll(8) == 0;
  shape.catalog_lost = Dice(seed, 5).roll(8) == 0;
  Dice more(seed, 6);
  // Whoever has lost the catalog has lost with it what leases its hosts go by.
  shape.leases_change = more.roll(6) == 0 && !shape.catalog_lost;
  shape.sizes_differ = more.roll(4) == 0;
  shape.hosts_named = more.roll(6) == 0;
  shape.packed = more.roll(6) == 0;
  shape.interval_auto = more.roll(8) == 0;
  return shape;
}

Happening draw_one(Dice& dice, const Shape& shape, std::uint32_t jobs) {
  unsigned sum = 0;
  for (const Kind& k : kKinds) sum += k.weight;
  auto left = dice.roll(sum);
  const Kind* chosen = kKinds.data();
  while (left >= chosen->weight) left -= chosen++->weight;
  Happening one;
  one.what = chosen->what;
  one.at = dice.between(1'500, shape.seconds * 1'000);
  if (chosen->has & host) one.host = static_cast<std::uint32_t>(1 + dice.roll(shape.hosts));
  if (chosen->has & job) one.job = static_cast<std::uint32_t>(1 + dice.roll(jobs));
  if (chosen->has & value) {
    // Short ones as often as long ones.
    const auto most = dice.roll(2) == 0 ? chosen->most : chosen->least + (chosen->most - chosen->least) / 8;
    one.value = dice.between(chosen->least, most).count();
  }
  if (one.what == What::wall_clock && dice.roll(2) == 0) one.value = -one.value;
  if (one.what == What::end && dice.roll(2) == 0) one.value = 0;
  return one;
}

}  // namespace

std::string_view name(What what) { return kind(what).name; }

Plan draw(std::uint64_t seed) {
  Dice dice(seed, 1);
  Plan plan;
  plan.shape = draw_shape(seed, dice);
  const auto jobs = static_cast<std::uint32_t>(1 + dice.roll(10) / 6 + dice.roll(10) / 9);
  for (std::uint32_t j = 1; j <= jobs; ++j)
    plan.happenings.push_back({dice.between(0, j == 1 ? 0 : 4'000), What::submit, 0, j, 0});
  // Most get as far as a checkpoint before anything goes wrong.
  if (dice.roll(5) != 0) plan.happenings.push_back({dice.between(2'000, 3'500), What::checkpoint, 0, 1, 0});
  for (std::uint64_t left = 2 + dice.roll(9); left > 0; --left)
    plan.happenings.push_back(draw_one(dice, plan.shape, jobs));
  std::stable_sort(plan.happenings.begin(), plan.happenings.end(),
                   [](const Happening& a, const Happening& b) { return a.at < b.at; });
  return plan;
}

std::string print(const Happening& one) {
  const Kind& k = kind(one.what);
  std::string text = fmt::format("at {} {}", one.at.count(), k.name);
  if (k.has & host) text += fmt::format(" host {}", one.host);
  if (k.has & job) text += fmt::format(" job {}", one.job);
  if (k.has & value) text += fmt::format(" value {}", one.value);
  return text;
}

std::string print(const Plan& plan) {
  Shape shape = plan.shape;
  std::string text = fmt::format("seed {}\n", shape.seed);
  for (const auto& [word, number] : numbers(shape)) text += fmt::format("{} {}\n", word, *number);
  text += fmt::format("stores {}\ndurability {}\n", shape.own_stores ? "own" : "shared", shape.durability);
  for (const auto& [word, is_so] : flags(shape))
    if (*is_so) text += word + "\n";
  for (const auto& one : plan.happenings) text += print(one) + "\n";
  return text;
}

namespace {

bool parse_happening(std::istream& line, Happening& one) {
  std::int64_t at = 0;
  std::string word;
  line >> at >> word;
  const auto found = std::find_if(kKinds.begin(), kKinds.end(), [&](const Kind& k) { return word == k.name; });
  if (found == kKinds.end() || at < 0) return false;
  one.at = Millis(at);
  one.what = found->what;
  while (line >> word) {
    if (word == "host") line >> one.host;
    else if (word == "job") line >> one.job;
    else if (word == "value") line >> one.value;
    else return false;
    if (!line) return false;
  }
  return ((found->has & host) == 0 || one.host != 0) && ((found->has & job) == 0 || one.job != 0);
}

bool parse_line(std::istream& line, const std::string& word, Plan& plan) {
  auto known = numbers(plan.shape);
  if (word == "at") return parse_happening(line, plan.happenings.emplace_back());
  if (word == "seed") return static_cast<bool>(line >> plan.shape.seed);
  if (const auto known_flags = flags(plan.shape); known_flags.contains(word)) return *known_flags.at(word) = true;
  if (word == "durability") return static_cast<bool>(line >> plan.shape.durability);
  if (word == "stores") {
    std::string whose;
    line >> whose;
    plan.shape.own_stores = whose == "own";
    return whose == "own" || whose == "shared";
  }
  return known.contains(word) && static_cast<bool>(line >> *known.at(word));
}

}  // namespace

Result<Plan> parse(const std::string& text) {
  Plan plan;
  std::istringstream lines(text);
  std::string one;
  for (int number = 1; std::getline(lines, one); ++number) {
    std::istringstream line(one);
    std::string word;
    if (!(line >> word) || word.starts_with("#")) continue;
    if (!parse_line(line, word, plan))
      return Error{ErrorKind::refused, "read", fmt::format("line {} of a history", number),
                   fmt::format("\"{}\" is not understood; docs/simulation.md says what may stand there", one)};
  }
  for (const auto& h : plan.happenings)
    if (h.host > plan.shape.hosts)
      return Error{ErrorKind::refused, "read", "a history",
                   fmt::format("it names host {} of {}", h.host, plan.shape.hosts)};
  return plan;
}

}  // namespace stillpoint::simulation
