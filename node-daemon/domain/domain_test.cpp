// What of the domain driver can be tried without machines.
#include <doctest/doctest.h>

#include <cstdlib>
#include <fstream>

#include "node-daemon/domain/domain_name.h"
#include "node-daemon/domain/domain_xml.h"
#include "node-daemon/domain/libvirt_driver.h"
#include "node-daemon/domain/probe.h"

using namespace stillpoint;
using namespace stillpoint::node;

namespace {

DomainSpec some_spec() {
  DomainSpec spec;
  spec.id = {JobId{"j7"}, Incarnation{2}, GuestIndex{1}};
  spec.vcpus = 2;
  spec.memory_bytes = 512u << 20;
  spec.kernel = "/images/vmlinuz";
  spec.initramfs = "/images/initrd.img";
  spec.base_image = "/images/base & more.squashfs";
  spec.disk = "/state/disk's.qcow2";
  spec.mac = "52:54:00:aa:BB:cc";
  spec.bridge = "spbr7";
  return spec;
}

std::string some_xml(DomainPhase phase = DomainPhase::running) {
  return domain_xml(some_spec(), Hardware{}, {"/run/ch/x", "/log/x.log"}, phase, false);
}

DomainFacts facts_of(const std::string& xml) {
  auto facts = parse_domain_xml(xml);
  REQUIRE_MESSAGE(facts.has_value(), facts.error().message());
  return *facts;
}

std::string replaced(std::string text, const std::string& what, const std::string& with) {
  const auto at = text.find(what);
  REQUIRE(at != text.npos);
  return text.replace(at, what.size(), with);
}

}  // namespace

TEST_CASE("a domain's name carries its id, and only such names are taken for ours") {
  const DomainId id{JobId{"j7"}, Incarnation{12}, GuestIndex{3}};
  CHECK(domain_name(id) == "sp-j7-i12-g3");
  CHECK(to_string(id) == "j7/12/guest-3");
  CHECK(parse_domain_name("sp-j7-i12-g3") == id);
  for (const char* other :
       {"", "sp-", "vm1", "sp-j7", "sp-j7-i1", "sp-j7-i1-g", "sp-j7-i-g1", "sp--i1-g1", "sp-j7-i01-g1", "sp-j7-i1-g1x",
        "sp-j7-i-1-g1", "sp-j/7-i1-g1", "sp-j7-i99999999999999999999-g1"})
    CHECK_MESSAGE(!parse_domain_name(other), other);
}

TEST_CASE("a job id that could not stand in a file name is refused") {
  CHECK(check_domain_id({JobId{"j7"}, Incarnation{1}, GuestIndex{0}}).has_value());
  for (const char* bad : {"", "a/b", "..", "a-b", "<x>", "0123456789012345678901234567890123"})
    CHECK_FALSE(check_domain_id({JobId{bad}, Incarnation{1}, GuestIndex{0}}).has_value());
}

TEST_CASE("the UUID stays over incarnations and differs between guests and jobs") {
  const DomainId id{JobId{"j7"}, Incarnation{1}, GuestIndex{0}};
  DomainId later = id, guest = id, job = id;
  later.incarnation = Incarnation{9};
  guest.guest = GuestIndex{1};
  job.job = JobId{"j8"};
  CHECK(domain_uuid(id) == domain_uuid(later));
  CHECK(domain_uuid(id) != domain_uuid(guest));
  CHECK(domain_uuid(id) != domain_uuid(job));
  CHECK(domain_uuid(id) == "2f12bd92-51f4-51d5-bda3-fee26e2705df");
}

TEST_CASE("what is written into a description is read back from it") {
  const DomainFacts facts = facts_of(some_xml(DomainPhase::loading));
  CHECK(facts.name == "sp-j7-i2-g1");
  CHECK(facts.uuid == domain_uuid(some_spec().id));
  CHECK(facts.mac == "52:54:00:aa:BB:cc");
  CHECK(facts.vcpus == 2);
  CHECK(facts.memory_bytes == 512u << 20);
  CHECK(facts.hardware.machine == "pc-i440fx-10.0");
  CHECK(facts.hardware.cpu_model == "Nehalem");
  CHECK(facts.hardware.accelerator == Accelerator::tcg);
  CHECK(facts.hardware.layout == 1);
  CHECK(facts.phase == DomainPhase::loading);
  CHECK(facts.channel_socket == "/run/ch/x");
  CHECK(facts.disk_chain == std::vector<std::filesystem::path>{"/state/disk's.qcow2"});
}

TEST_CASE("only a machine that is to be loaded waits for a stream") {
  CHECK(some_xml(DomainPhase::loading).find("-incoming") != std::string::npos);
  CHECK(some_xml(DomainPhase::running).find("-incoming") == std::string::npos);
}

TEST_CASE("a chain of layers is read active first") {
  const std::string xml =
      replaced(some_xml(), "<source file='/state/disk&apos;s.qcow2'/>",
               "<source file='/s/2'/><backingStore type='file'><format type='qcow2'/><source file='/s/1'/>"
               "<backingStore type='file'><source file='/s/0'/><backingStore/></backingStore></backingStore>");
  CHECK(facts_of(xml).disk_chain == std::vector<std::filesystem::path>{"/s/2", "/s/1", "/s/0"});
}

TEST_CASE("a damaged description is an error, never an exception") {
  CHECK_FALSE(parse_domain_xml("").has_value());
  CHECK_FALSE(parse_domain_xml("<domain").has_value());
  CHECK_FALSE(parse_domain_xml("<other/>").has_value());
  CHECK_FALSE(parse_domain_xml("<domain/>").has_value());
  CHECK_FALSE(parse_domain_xml(std::string(1 << 20, ' ')).has_value());
  CHECK_FALSE(parse_domain_xml(replaced(some_xml(), "pc-i440fx-10.0", "pc,accel=kvm")).has_value());
  CHECK_FALSE(parse_domain_xml(replaced(some_xml(), "Nehalem", "a'b")).has_value());
  CHECK_FALSE(parse_domain_xml(replaced(some_xml(), "type='qemu'", "type='xen'")).has_value());
  const std::string xml = some_xml();
  for (std::size_t length = 0; length < xml.size() - 10; length += 37)
    CHECK_FALSE(parse_domain_xml(xml.substr(0, length)).has_value());
}

TEST_CASE("an image loads only into the machine that it was taken from") {
  const DomainFacts captured = facts_of(some_xml());
  DomainSpec spec = some_spec();
  spec.id.incarnation = Incarnation{3};
  spec.disk = "/elsewhere/disk.qcow2";
  spec.bridge = "spbr8";
  spec.mac = "52:54:00:AA:bb:cc";
  CHECK(check_same_machine(captured, spec, Accelerator::tcg).has_value());
  CHECK(check_same_machine(captured, spec, Accelerator::kvm).has_value());  // it runs under TCG there, too
  const auto refuses = [&](auto change, Accelerator host = Accelerator::tcg, DomainFacts of = {}) {
    DomainSpec other = spec;
    change(other);
    const auto checked = check_same_machine(of.uuid.empty() ? captured : of, other, host);
    return !checked.has_value() && checked.error().kind == ErrorKind::refused;
  };
  CHECK(refuses([](DomainSpec& s) { s.id.guest = GuestIndex{0}; }));
  CHECK(refuses([](DomainSpec& s) { s.mac = "52:54:00:00:00:01"; }));
  CHECK(refuses([](DomainSpec& s) { s.vcpus = 1; }));
  CHECK(refuses([](DomainSpec& s) { s.memory_bytes += 1 << 20; }));
  DomainFacts kvm = captured;
  kvm.hardware.accelerator = Accelerator::kvm;
  CHECK(refuses([](DomainSpec&) {}, Accelerator::tcg, kvm));
  DomainFacts layout = captured;
  layout.hardware.layout = 2;
  CHECK(refuses([](DomainSpec&) {}, Accelerator::tcg, layout));
}

TEST_CASE("a machine of another site has that site's name and UUID; guest and MAC address must be the same") {
  const DomainFacts captured = facts_of(some_xml());
  DomainSpec spec = some_spec();
  spec.id.job = JobId{"j99"};
  CHECK_FALSE(check_same_machine(captured, spec, Accelerator::tcg).has_value());
  spec.known_as = JobId{"j3"};  // further back than the job that it was captured in
  CHECK(check_same_machine(captured, spec, Accelerator::tcg).has_value());
  DomainSpec other = spec;
  other.id.guest = GuestIndex{0};
  CHECK_FALSE(check_same_machine(captured, other, Accelerator::tcg).has_value());
  other = spec;
  other.mac = "52:54:00:00:00:01";
  CHECK_FALSE(check_same_machine(captured, other, Accelerator::tcg).has_value());
}

TEST_CASE("KVM is used only where the CPU itself virtualises") {
  CHECK(choose_accelerator({true, true}, {}).value == Accelerator::kvm);
  CHECK(choose_accelerator({true, false}, {}).value == Accelerator::tcg);
  CHECK(choose_accelerator({false, true}, {}).value == Accelerator::tcg);
  CHECK(choose_accelerator({false, false}, {}).value == Accelerator::tcg);
  CHECK(choose_accelerator({false, false}, Accelerator::kvm).value == Accelerator::kvm);
  CHECK(choose_accelerator({true, true}, Accelerator::tcg).value == Accelerator::tcg);
  CHECK(choose_accelerator({true, false}, {}).reason.find("vmx") != std::string::npos);
}

TEST_CASE("the CPU's flags are whole words") {
  const std::filesystem::path file =
      std::filesystem::temp_directory_path() / ("sp-cpuinfo-" + std::to_string(::getpid()));
  const auto virtualises = [&](const char* text) {
    std::ofstream(file) << text;
    return read_cpu_facts(file, "/nonexistent").virtualises;
  };
  CHECK(virtualises("processor: 0\nflags\t\t: fpu vmx sse\n"));
  CHECK(virtualises("flags\t\t: fpu svm\n"));
  CHECK_FALSE(virtualises("flags\t\t: fpu svm_lock vmxoff\nbugs: vmx\n"));
  CHECK_FALSE(virtualises(""));
  std::filesystem::remove(file);
}

TEST_CASE("the capture mode falls back with a reason, and a setting overrides the probe") {
  const Status no = Error{ErrorKind::permanent, "probe", "QEMU", "no userfaultfd"};
  CHECK(choose_capture_mode({}, {}).value == CaptureMode::background_snapshot);
  CHECK(choose_capture_mode(no, {}).value == CaptureMode::paused_save);
  CHECK(choose_capture_mode(no, {}).reason.find("no userfaultfd") != std::string::npos);
  CHECK(choose_capture_mode({}, CaptureMode::paused_save).value == CaptureMode::paused_save);
  // The mode named is the second way, which a reader of `hosts` cannot know.
  for (const Status& usable : {Status{}, no})
    CHECK(choose_capture_mode(usable, {}).reason.find("copied while the guest runs first (pre-copy)") !=
          std::string::npos);
  CHECK(choose_capture_mode({}, CaptureMode::paused_save).reason.find("pre-copy") == std::string::npos);
}

TEST_CASE("settings come from the environment, and a wrong one is said") {
  ::setenv("STILLPOINT_ACCELERATOR", "tcg", 1);
  ::setenv("STILLPOINT_CAPTURE", "paused-save", 1);
  LibvirtSettings settings;
  CHECK(settings_from_environment(settings).has_value());
  CHECK(settings.accelerator == Accelerator::tcg);
  CHECK(settings.capture_mode == CaptureMode::paused_save);
  ::setenv("STILLPOINT_CAPTURE", "quickly", 1);
  const auto wrong = settings_from_environment(settings);
  REQUIRE_FALSE(wrong.has_value());
  CHECK(wrong.error().message().find("quickly") != std::string::npos);
  ::unsetenv("STILLPOINT_ACCELERATOR");
  ::unsetenv("STILLPOINT_CAPTURE");
}
