// Frames for a byte stream that may lose bytes (virtio-serial after a restore) as well as for one that does not (TLS).
//
//   offset  size  field            little-endian
//   0       4     magic            "SPF1"
//   4       4     payload length   at most the link's limit, checked before anything is allocated
//   8       4     CRC-32C of the length field and the payload (Castagnoli polynomial, RFC 3720)
//   12      n     payload
//
// A reader that meets anything else skips to the next magic whose CRC holds: a frame cut by a restore is lost alone.
// No Boost, no exceptions: the guest agent uses it too. Not thread-safe; one owner.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace stillpoint {

inline constexpr std::size_t kFrameHeaderBytes = 12;
inline constexpr std::size_t kMaxFramePayload = 4u << 20;
// Between node daemon and agent: a length that lost bytes have made up must not stop the reader for long.
inline constexpr std::size_t kMaxGuestPayload = 1u << 20;

std::uint32_t crc32c(std::string_view bytes, std::uint32_t seed = 0);

// The frame around payload. The payload must not exceed kMaxFramePayload.
std::string encode_frame(std::string_view payload);
// All of a frame but the end of its payload, which is to follow it.
std::string encode_frame_beginning(std::string_view payload, std::string_view end);

// Takes bytes as they come, gives whole payloads in order.
class FrameReader {
 public:
  explicit FrameReader(std::size_t max_payload = kMaxFramePayload) : max_payload_(max_payload) {}

  void feed(std::string_view bytes) { buffer_.append(bytes); }
  // The next whole payload, or nothing until more bytes come.
  std::optional<std::string> next();
  // Bytes thrown away so far because they belonged to no frame. On a link that does not lose bytes, more than 0 is
  // a broken or hostile peer.
  std::uint64_t skipped() const { return skipped_; }

 private:
  void skip(std::size_t count);

  std::size_t max_payload_;
  std::string buffer_;
  std::size_t start_ = 0;  // first byte of buffer_ that was not consumed
  std::uint64_t skipped_ = 0;
};

}  // namespace stillpoint
