#include <doctest/doctest.h>

#include <csignal>
#include <filesystem>
#include <random>
#include <thread>

#include "common/failure.h"
#include "common/file.h"
#include "common/framing.h"
#include "common/log.h"
#include "common/process.h"

using namespace stillpoint;

TEST_CASE("CRC-32C of the standard's check string") { CHECK(crc32c("123456789") == 0xe3069283u); }

TEST_CASE("CRC-32C of the examples in RFC 3720, in one piece and in two") {
  std::string up, down;
  for (int i = 0; i < 32; ++i) {
    up.push_back(static_cast<char>(i));
    down.push_back(static_cast<char>(31 - i));
  }
  CHECK(crc32c(std::string(32, '\0')) == 0x8a9136aau);
  CHECK(crc32c(std::string(32, '\xff')) == 0x62a8ab43u);
  CHECK(crc32c(up) == 0x46dd794eu);
  CHECK(crc32c(down) == 0x113fdb5cu);
  for (std::size_t at = 0; at <= up.size(); ++at) CHECK(crc32c(up.substr(at), crc32c(up.substr(0, at))) == 0x46dd794eu);
}

TEST_CASE("a frame whose payload's end comes by itself is the same frame") {
  const std::string payload = "beginning and end";
  for (std::size_t at = 0; at <= payload.size(); ++at)
    CHECK(encode_frame_beginning(payload.substr(0, at), payload.substr(at)) + payload.substr(at) ==
          encode_frame(payload));
}

TEST_CASE("frames come out whole and in order, however the bytes are cut") {
  std::string stream = encode_frame("one") + encode_frame("") + encode_frame(std::string(100'000, 'x'));
  for (std::size_t step : {std::size_t{1}, std::size_t{7}, stream.size()}) {
    FrameReader reader;
    std::vector<std::string> got;
    for (std::size_t at = 0; at < stream.size(); at += step) {
      reader.feed(std::string_view(stream).substr(at, step));
      while (auto frame = reader.next()) got.push_back(*frame);
    }
    REQUIRE(got.size() == 3);
    CHECK(got[0] == "one");
    CHECK(got[1].empty());
    CHECK(got[2].size() == 100'000);
    CHECK(reader.skipped() == 0);
  }
}

TEST_CASE("a frame that lost its beginning is skipped, the next one is read") {
  const std::string cut = encode_frame("lost in a restore").substr(9);
  FrameReader reader;
  reader.feed(cut + encode_frame("next"));
  CHECK(reader.next() == "next");
  CHECK(reader.skipped() == cut.size());
}

TEST_CASE("a frame that lost its end costs itself alone once enough bytes follow") {
  FrameReader reader;
  reader.feed(encode_frame(std::string(50, 'a')).substr(0, 40) + encode_frame("b") +
              encode_frame(std::string(30, 'c')));
  CHECK(reader.next() == "b");
  CHECK(reader.next() == std::string(30, 'c'));
}

TEST_CASE("no flipped bit passes") {
  const std::string good = encode_frame("payload");
  for (std::size_t bit = 0; bit < good.size() * 8; ++bit) {
    std::string bad = good;
    bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << bit % 8));
    FrameReader reader(64);
    reader.feed(bad + encode_frame("next") + std::string(80, ' '));
    CHECK(reader.next() == "next");
  }
}

TEST_CASE("a length over the limit is refused before anything is waited for") {
  FrameReader reader(16);
  reader.feed(encode_frame(std::string(17, 'x')) + encode_frame("ok"));
  CHECK(reader.next() == "ok");
}

TEST_CASE("publish_file replaces the whole file with the asked mode and leaves no temporary") {
  const auto dir =
      std::filesystem::temp_directory_path() / ("stillpoint-file-test-" + std::to_string(std::random_device{}()));
  std::filesystem::create_directory(dir);
  REQUIRE(publish_file(dir / "f", "first").has_value());
  REQUIRE(publish_file(dir / "f", "second", 0640).has_value());
  CHECK(read_file(dir / "f").value() == "second");
  CHECK(std::filesystem::status(dir / "f").permissions() == std::filesystem::perms(0640));
  CHECK(std::distance(std::filesystem::directory_iterator(dir), {}) == 1);
  CHECK(publish_file(dir / "none" / "f", "x").error().kind == ErrorKind::not_found);
  CHECK(read_file(dir / "f", 3).error().cause == "larger than 3 bytes");
  std::filesystem::remove_all(dir);
}

TEST_CASE("run_process gives exit code and both outputs; input is passed") {
  const auto outcome = run_process({"sh", "-c", "cat; echo err >&2; exit 3"}, {.input = "hello"});
  REQUIRE(outcome.has_value());
  CHECK(outcome->exit_code == 3);
  CHECK(outcome->out == "hello");
  CHECK(outcome->err == "err\n");
}

TEST_CASE("run_process ends a program that outlives its deadline") {
  const auto outcome = run_process({"sleep", "100"}, {.deadline = std::chrono::milliseconds(50)});
  REQUIRE_FALSE(outcome.has_value());
  CHECK(outcome.error().kind == ErrorKind::deadline);
}

TEST_CASE("run_process ends a program that nobody wants any more") {
  std::stop_source stop;
  std::jthread other([&] { stop.request_stop(); });
  const auto outcome = run_process({"sleep", "100"}, {.stop = stop.get_token()});
  REQUIRE_FALSE(outcome.has_value());
  CHECK(outcome.error().kind == ErrorKind::refused);
}

TEST_CASE("run_process ends a program that closes its outputs and goes on") {
  const auto begun = std::chrono::steady_clock::now();
  const auto outcome =
      run_process({"sh", "-c", "exec >&- 2>&-; exec sleep 30"}, {.deadline = std::chrono::milliseconds(200)});
  REQUIRE_FALSE(outcome.has_value());
  CHECK(outcome.error().kind == ErrorKind::deadline);
  CHECK(std::chrono::steady_clock::now() - begun < std::chrono::seconds(20));
}

TEST_CASE("run_process outlives a program that does not read its input, and lets it die of SIGPIPE itself") {
  const auto before = ::signal(SIGPIPE, SIG_IGN);
  const auto outcome = run_process({"true"}, {.input = std::string(1u << 20, 'x')});
  REQUIRE(outcome.has_value());
  CHECK(outcome->exit_code == 0);
  const auto pipe = run_process({"sh", "-c", "kill -PIPE $$; exit 0"});
  ::signal(SIGPIPE, before);
  REQUIRE(pipe.has_value());
  CHECK(pipe->exit_code == 128 + SIGPIPE);
}

TEST_CASE("run_checked names the program and what it said") {
  const auto outcome = run_checked({"sh", "-c", "echo broken >&2; exit 1"});
  REQUIRE_FALSE(outcome.has_value());
  CHECK(outcome.error().message().find("exit code 1: broken") != std::string::npos);
  CHECK(run_checked({"/does/not/exist"}).error().kind == ErrorKind::not_found);
}

TEST_CASE("an error keeps its kind and words on the wire") {
  for (ErrorKind kind : {ErrorKind::refused, ErrorKind::transient, ErrorKind::permanent, ErrorKind::storage_full,
                         ErrorKind::damaged, ErrorKind::deadline, ErrorKind::not_quiet, ErrorKind::not_found}) {
    const Error error{kind, "step", "object", "cause"};
    CHECK(from_wire(to_wire(error)) == error);
  }
}

TEST_CASE("a log value cannot forge a line") {
  CHECK(format_log_line("m", {{"k", "plain"}, {"n", 3}}) == "m k=plain n=3");
  CHECK(format_log_line("m", {{"k", "a\nb \"c\""}}) == "m k=\"a\\x0ab \\\"c\\\"\"");
}
