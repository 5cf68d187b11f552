// The main story, message by message, against testdata/main_story.txt: to be read, and to show what a change changes.
// STILLPOINT_UPDATE_GOLDEN=1 writes it anew.
#include <doctest/doctest.h>

#include <cstdlib>

#include "common/file.h"
#include "coordinator/core/tests/world.h"

using namespace stillpoint;
using namespace stillpoint::coordinator;
using namespace stillpoint::coordinator::testing;

namespace {

// Heartbeats and the program's output come all the time and tell nothing of the story.
bool is_noise(const std::string& line) {
  for (const char* word : {"Ping", "Pong", "AckOutput", "GuestOutput", "append ", "durable to", "> tick", " log "})
    if (line.find(word) != std::string::npos) return true;
  return false;
}

}  // namespace

TEST_CASE("the main story: submit, checkpoint, a host dies, restart elsewhere, the end") {
  World w(3);
  w.record = true;
  const auto chapter = [&](const std::string& title) { w.transcript.push_back("\n## " + title); };
  chapter("submit and start");
  const JobId id = w.running(spec());
  chapter("checkpoint; the first look at the cut finds a byte on the wire");
  w.script.unquiet_freezes = 2;
  w.committed(id);
  chapter("a host dies");
  w.kill(w.job(id).placement[1].host);
  REQUIRE(w.until_state(id, JobState::failed));
  chapter("restart");
  REQUIRE(w.answer(w.restart(id)).has_value());
  chapter("the program ends");
  w.script.last_step = 1;
  REQUIRE(w.until_state(id, JobState::completed));

  std::string text =
      "The core's events (>) and effects, without heartbeats and output. Made by tests/transcript_test.cpp.\n";
  for (const auto& line : w.transcript)
    if (!is_noise(line)) text += line + "\n";
  const std::string path = std::string(STILLPOINT_SOURCE_DIR) + "/coordinator/core/testdata/main_story.txt";
  if (std::getenv("STILLPOINT_UPDATE_GOLDEN") != nullptr) {
    REQUIRE(publish_file(path, text, 0644).has_value());
    return;
  }
  const auto golden = read_file(path);
  REQUIRE(golden.has_value());
  CHECK(golden.value() == text);
}
