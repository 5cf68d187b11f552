// What seals is AES-256-GCM, whichever library it comes from: known answers, and every flipped bit found.
#include "node-daemon/store/gcm.h"

#include <doctest/doctest.h>

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "node-daemon/store/seal.h"

namespace stillpoint::node {
namespace {

std::string bytes_of(std::string_view digits) {
  std::string bytes;
  for (std::size_t i = 0; i + 1 < digits.size(); i += 2)
    bytes.push_back(static_cast<char>(std::stoi(std::string(digits.substr(i, 2)), nullptr, 16)));
  return bytes;
}
template <class T>
T array_of(std::string_view digits) {
  T array{};
  const std::string bytes = bytes_of(digits);
  REQUIRE(bytes.size() == array.size());
  std::copy(bytes.begin(), bytes.end(), array.begin());
  return array;
}

struct Answer {
  const char *key, *nonce, *context, *plain, *sealed, *tag;
};
// McGrew and Viega, The Galois/Counter Mode of Operation, test cases 13 to 16.
constexpr const char* kZeros = "0000000000000000000000000000000000000000000000000000000000000000";
constexpr const char* kKey = "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308";
const Answer kAnswers[] = {
    {kZeros, "000000000000000000000000", "", "", "", "530f8afbc74536b9a963b4f1c4cb738b"},
    {kZeros, "000000000000000000000000", "", "00000000000000000000000000000000", "cea7403d4d606b6e074ec5d3baf39d18",
     "d0d1c8a799996bf0265b98b5d48ab919"},
    {kKey, "cafebabefacedbaddecaf888", "",
     "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657b"
     "a"
     "637b391aafd255",
     "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0ab"
     "c"
     "c9f662898015ad",
     "b094dac5d93471bdec1a502270e3cc6c"},
    {kKey, "cafebabefacedbaddecaf888", "feedfacedeadbeeffeedfacedeadbeefabaddad2",
     "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657b"
     "a"
     "637b39",
     "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0ab"
     "c"
     "c9f662",
     "76fc6ece0f4e1768cddf8853bb2d551b"},
};

// Those that there are: OpenSSL's is there always.
std::vector<std::unique_ptr<Gcm>> all_gcm(const GcmKey& key) {
  std::vector<std::unique_ptr<Gcm>> all;
  all.push_back(openssl_gcm(key));
  if (auto other = ipsec_mb_gcm(key)) all.push_back(std::move(other));
  return all;
}

void check_answer(Gcm& gcm, const Answer& answer) {
  const auto nonce = array_of<GcmNonce>(answer.nonce);
  const std::string context = bytes_of(answer.context), plain = bytes_of(answer.plain);
  std::string bytes = plain;
  GcmTag tag{};
  REQUIRE(gcm.seal(nonce, context, bytes, bytes.data(), tag));
  CHECK(hex(bytes) == answer.sealed);
  CHECK(hex(as_text(tag)) == answer.tag);
  REQUIRE(gcm.open(nonce, context, bytes, tag, bytes.data()) == Gcm::Opened::whole);
  CHECK(bytes == plain);
}

TEST_CASE("GCM gives the published answers, and opens them, where they lie too") {
  for (const Answer& answer : kAnswers)
    for (const auto& gcm : all_gcm(array_of<GcmKey>(answer.key))) check_answer(*gcm, answer);
}

TEST_CASE("GCM of a page as context is the fingerprint that stores have") {
  // Computed with OpenSSL.
  std::string page;
  for (unsigned i = 0; i < 4096; ++i) page.push_back(static_cast<char>(i * i >> 3));
  PageHasher hasher(array_of<Key>(kKey));
  const Fingerprint fingerprint = hasher(page);
  CHECK(fingerprint.high == 0x3d4d5fb50bd3cbcb);
  CHECK(fingerprint.low == 0x0a908af813143836);
}

void check_flips(Gcm& gcm, std::size_t size) {
  auto nonce = array_of<GcmNonce>("cafebabefacedbaddecaf888");
  std::string context = "what it belongs to", plain(size, 'p'), sealed(size, '\0');
  GcmTag tag{};
  REQUIRE(gcm.seal(nonce, context, plain, sealed.data(), tag));
  std::string out(size, '\0');
  const auto all_found = [&](std::span<std::byte> bytes) {
    for (std::size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
      const std::byte flip{static_cast<unsigned char>(1u << bit % 8)};
      bytes[bit / 8] ^= flip;
      const bool found = gcm.open(nonce, context, sealed, tag, out.data()) == Gcm::Opened::damaged;
      bytes[bit / 8] ^= flip;
      if (!found) return false;
    }
    return true;
  };
  CHECK(all_found(std::as_writable_bytes(std::span(sealed))));
  CHECK(all_found(std::as_writable_bytes(std::span(tag))));
  CHECK(all_found(std::as_writable_bytes(std::span(context))));
  CHECK(all_found(std::as_writable_bytes(std::span(nonce))));
  REQUIRE(gcm.open(nonce, context, sealed, tag, out.data()) == Gcm::Opened::whole);
  CHECK(out == plain);
}

TEST_CASE("any flipped bit of what is sealed, its tag, its context or its nonce is found") {
  for (const auto& gcm : all_gcm(array_of<GcmKey>(kKey)))
    for (const std::size_t size : {1u, 15u, 16u, 100u, 1000u, 5000u}) check_flips(*gcm, size);
}

TEST_CASE("what one library seals the other opens, of any length") {
  const auto all = all_gcm(array_of<GcmKey>(kKey));
  for (std::size_t size = 0; size < 1200; size += 7) {
    const std::string context(size * 3 % 700 + 1, 'c'), plain(size, 'p');
    for (const auto& from : all)
      for (const auto& to : all) {
        std::string bytes = plain;
        GcmTag tag{};
        REQUIRE(from->seal({}, context, bytes, bytes.data(), tag));
        REQUIRE(to->open({}, context, bytes, tag, bytes.data()) == Gcm::Opened::whole);
        REQUIRE(bytes == plain);
      }
  }
}

}  // namespace
}  // namespace stillpoint::node
