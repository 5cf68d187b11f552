// What an exported file says of its checkpoint: what was written is read, and what somebody else made up is not.
#include "coordinator/api/transfer_json.h"

#include <doctest/doctest.h>

#include <nlohmann/json.hpp>

using namespace stillpoint;
using namespace stillpoint::coordinator;
using nlohmann::json;

namespace {

json some_export() {
  JobRecord job;
  job.job = JobId{"j7"};
  job.manifest = "as submitted";
  job.spec.name = "heat";
  job.spec.guests = 2;
  job.spec.memory_bytes = 512u << 20;
  job.spec.disk_bytes = 1u << 30;
  job.spec.ranks_per_guest = {2, 2};
  job.spec.command = {"./heat"};
  job.spec.submit_directory = "/home/somebody";
  EpochRecord epoch;
  epoch.epoch = Epoch{12};
  epoch.job = job.job;
  epoch.incarnation = Incarnation{3};
  epoch.time = 1'700'000'000;
  epoch.output_offset = 99;
  for (std::uint32_t guest = 0; guest < 2; ++guest) {
    epoch.cut.emplace_back().set_guest(guest);
    epoch.cut.back().set_output_offset(99);
    auto& image = epoch.images.emplace_back();
    image.set_guest(guest);
    image.mutable_memory()->set_path("h1/j7/e12/guest.ram");
    image.set_domain_xml("<domain/>");
  }
  return export_json(job, epoch);
}

std::string why_not(const json& document) {
  const auto read = foreign_checkpoint(document, "");
  REQUIRE(!read.has_value());
  return read.error().message();
}
bool says(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_CASE("the description of a checkpoint is read as it was written, but for where things lay") {
  const auto read = foreign_checkpoint(some_export(), "");
  REQUIRE_MESSAGE(read.has_value(), read.error());
  CHECK(read->spec.name == "heat");
  CHECK(read->spec.submit_directory.empty());
  CHECK(read->manifest == "as submitted");
  CHECK(read->epoch == Epoch{12});
  CHECK(read->incarnation == Incarnation{3});
  CHECK(read->time == 1'700'000'000);
  CHECK(read->output_bytes == 99);
  REQUIRE(read->images.size() == 2);
  CHECK(read->images[1].guest() == 1);
  CHECK(read->images[1].domain_xml() == "<domain/>");
  CHECK_FALSE(read->images[1].has_memory());
  CHECK(read->images[1].known_as_job() == "j7");
  CHECK(read->images[1].known_as_epoch() == 12);
  CHECK(read->cut[1].output_offset() == 99);
  CHECK(foreign_checkpoint(some_export(), "other")->spec.name == "other");
}

TEST_CASE("each key is wanted, of its own type, and no other") {
  const json whole = some_export();
  for (const auto& [key, value] : whole.items()) {
    CAPTURE(key);
    json document = whole;
    document.erase(key);
    CHECK(says(why_not(document), key));
    document[key] = true;
    CHECK_FALSE(foreign_checkpoint(document, "").has_value());
  }
  json document = whole;
  document["more"] = 1;
  CHECK(says(why_not(document), "more"));
  document = whole;
  document["version"] = 2u;
  CHECK(says(why_not(document), "version 2, this program knows version 1"));
}

TEST_CASE("guests that do not fit, and what is no message, are refused") {
  json document = some_export();
  document["guests"].erase(1);
  CHECK(says(why_not(document), "a list of all guests"));
  document = some_export();
  document["guests"][1]["guest"] = 0u;
  CHECK(says(why_not(document), "another guest's"));
  document = some_export();
  document["guests"][0]["image"] = "0x";
  CHECK(says(why_not(document), "expected a message"));
  document = some_export();
  document["guests"][0]["cut"] = "ff";
  CHECK(says(why_not(document), "expected a message"));
  document = some_export();
  document["spec"]["guests"] = 100'000'000u;
  CHECK_FALSE(foreign_checkpoint(document, "").has_value());
  CHECK(says(foreign_checkpoint(some_export(), "a/b").error().message(), "name"));
}
