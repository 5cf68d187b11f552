#include "common/framing.h"

#include <algorithm>
#include <array>

namespace stillpoint {
namespace {

constexpr std::string_view kMagic = "SPF1";

// The first table is a byte's CRC; table n is that of a byte with n zeros behind it, so that eight bytes are taken at
// once ("slicing by 8").
using CrcTables = std::array<std::array<std::uint32_t, 256>, 8>;
constexpr CrcTables make_crc_tables() {
  CrcTables tables{};
  for (std::uint32_t i = 0; i < 256; ++i) {
    std::uint32_t c = i;
    for (int k = 0; k < 8; ++k) c = (c & 1) ? 0x82f63b78u ^ (c >> 1) : c >> 1;
    tables[0][i] = c;
  }
  for (std::size_t n = 1; n < tables.size(); ++n)
    for (std::size_t i = 0; i < 256; ++i) tables[n][i] = tables[0][tables[n - 1][i] & 0xff] ^ (tables[n - 1][i] >> 8);
  return tables;
}
constexpr CrcTables kCrc = make_crc_tables();

std::uint32_t get_u32(const char* p) {
  auto byte = [p](int i) { return static_cast<std::uint32_t>(static_cast<unsigned char>(p[i])); };
  return byte(0) | byte(1) << 8 | byte(2) << 16 | byte(3) << 24;
}

void put_u32(std::string& out, std::uint32_t v) {
  for (int shift = 0; shift < 32; shift += 8) out.push_back(static_cast<char>(v >> shift & 0xff));
}

}  // namespace

std::uint32_t crc32c(std::string_view bytes, std::uint32_t seed) {
  std::uint32_t c = ~seed;
  for (; bytes.size() >= 8; bytes.remove_prefix(8)) {
    const std::uint32_t low = get_u32(bytes.data()) ^ c, high = get_u32(bytes.data() + 4);
    c = kCrc[7][low & 0xff] ^ kCrc[6][low >> 8 & 0xff] ^ kCrc[5][low >> 16 & 0xff] ^ kCrc[4][low >> 24] ^
        kCrc[3][high & 0xff] ^ kCrc[2][high >> 8 & 0xff] ^ kCrc[1][high >> 16 & 0xff] ^ kCrc[0][high >> 24];
  }
  for (unsigned char b : bytes) c = kCrc[0][(c ^ b) & 0xff] ^ (c >> 8);
  return ~c;
}

std::string encode_frame(std::string_view payload) { return encode_frame_beginning(payload, {}); }

std::string encode_frame_beginning(std::string_view payload, std::string_view end) {
  std::string length;
  put_u32(length, static_cast<std::uint32_t>(payload.size() + end.size()));
  std::string frame;
  frame.reserve(kFrameHeaderBytes + payload.size());
  frame.append(kMagic).append(length);
  put_u32(frame, crc32c(end, crc32c(payload, crc32c(length))));
  frame.append(payload);
  return frame;
}

void FrameReader::skip(std::size_t count) {
  start_ += count;
  if (start_ == buffer_.size() || start_ > (64u << 10)) {
    buffer_.erase(0, start_);
    start_ = 0;
  }
}

std::optional<std::string> FrameReader::next() {
  for (;;) {
    std::string_view rest = std::string_view(buffer_).substr(start_);
    const std::size_t at = rest.find(kMagic);
    if (at != 0) {
      // Keep a tail that may be the beginning of a magic.
      const std::size_t keep = at == rest.npos ? std::min(rest.size(), kMagic.size() - 1) : rest.size() - at;
      const std::size_t drop = rest.size() - keep;
      skipped_ += drop;
      skip(drop);
      if (at == rest.npos) return std::nullopt;
      continue;
    }
    if (rest.size() < kFrameHeaderBytes) return std::nullopt;
    const std::size_t length = get_u32(rest.data() + 4);
    if (length > max_payload_) {
      skipped_ += kMagic.size();
      skip(kMagic.size());
      continue;
    }
    // A frame that lost its end looks like this too, until the frames behind it have filled its length; then its
    // CRC fails and they are found. The sender's retry of what was not answered brings those bytes.
    if (rest.size() < kFrameHeaderBytes + length) return std::nullopt;
    const std::string_view payload = rest.substr(kFrameHeaderBytes, length);
    if (crc32c(payload, crc32c(rest.substr(4, 4))) != get_u32(rest.data() + 8)) {
      skipped_ += kMagic.size();
      skip(kMagic.size());
      continue;
    }
    std::string result(payload);
    skip(kFrameHeaderBytes + length);
    return result;
  }
}

}  // namespace stillpoint
