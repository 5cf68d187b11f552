#include "cli/export/export_file.h"

#include <zstd.h>

#include <algorithm>

namespace stillpoint::cli {
namespace {

constexpr std::string_view kMagic = "stillexp";
constexpr std::uint32_t kVersion = 1;
constexpr std::uint32_t kSealed = 1;  // flag
constexpr std::size_t kCheckedHead = 56, kRecordHead = 12, kSaltAt = 24, kCheckAt = 40;
constexpr int kLevel = 1;

Error refused(std::string cause) { return {ErrorKind::refused, "import", "file", std::move(cause)}; }

template <class Number>
void add_number(std::string& out, Number value) {
  for (std::size_t i = 0; i < sizeof value; ++i) out += static_cast<char>(value >> 8 * i);
}

template <class Number>
Number number_at(std::string_view bytes, std::size_t at) {
  Number value = 0;
  for (std::size_t i = 0; i < sizeof value; ++i)
    value |= static_cast<Number>(static_cast<unsigned char>(bytes[at + i])) << 8 * i;
  return value;
}

std::size_t most_of(RecordKind kind) {
  switch (kind) {
    case RecordKind::description: return kMaxDescription;
    case RecordKind::data: return kMaxData;
    case RecordKind::image_end: return 8;
    case RecordKind::end: return 0;
  }
  return 0;
}

Result<std::string> unpack(std::string_view packed, std::size_t bytes) {
  std::string plain(bytes, '\0');
  const std::size_t got = ZSTD_decompress(plain.data(), plain.size(), packed.data(), packed.size());
  if (ZSTD_isError(got) || got != bytes) return Error{ErrorKind::damaged, "read", "record", "it does not unpack"};
  return plain;
}

std::string head_of(bool sealed, unsigned cost, std::string_view salt, const std::string& check) {
  std::string head(kMagic);
  add_number(head, kVersion);
  add_number(head, sealed ? kSealed : 0u);
  add_number(head, sealed ? cost : 0u);
  add_number(head, 0u);
  head += sealed ? std::string(salt) : std::string(16, '\0');
  head += check;
  return head + sha256(head).substr(0, kHeadBytes - kCheckedHead);
}

}  // namespace

// ---- writing

Result<ExportWriter> ExportWriter::begin(Write write, const std::optional<std::string>& passphrase,
                                         std::string_view salt, unsigned cost) {
  Sealing sealing;
  if (passphrase) {
    auto made = Sealing::from_passphrase(*passphrase, salt, cost);
    if (!made) return made.error();
    sealing = std::move(*made);
  }
  const std::string check = sealing.check();
  ExportWriter writer(std::move(write), std::move(sealing));
  writer.head_ = head_of(passphrase.has_value(), cost, salt, check);
  if (auto put = writer.put(writer.head_); !put) return put.error();
  return writer;
}

Status ExportWriter::put(std::string_view bytes) {
  digest_.add(bytes);
  bytes_ += bytes.size();
  return write_(bytes);
}

Status ExportWriter::record(RecordKind kind, std::string_view plain) {
  std::string packed(ZSTD_compressBound(plain.size()), '\0');
  const std::size_t size = ZSTD_compress(packed.data(), packed.size(), plain.data(), plain.size(), kLevel);
  if (ZSTD_isError(size)) return Error{ErrorKind::permanent, "export", "record", ZSTD_getErrorName(size)};
  packed.resize(size);
  std::string out;
  add_number(out, static_cast<std::uint32_t>(kind));
  add_number(out, static_cast<std::uint32_t>(plain.size()));
  add_number(out, static_cast<std::uint32_t>(packed.size() + kTagBytes));
  if (auto sealed = sealing_.seal(number_++, head_ + out, packed, out); !sealed) return sealed;
  return put(out);
}

Status ExportWriter::description(std::string_view text) {
  if (text.size() > kMaxDescription)
    return Error{ErrorKind::refused, "export", "description", "it has more than 64 MiB"};
  return record(RecordKind::description, text);
}

Status ExportWriter::data(std::string_view bytes) {
  image_bytes_ += bytes.size();
  for (; !bytes.empty(); bytes.remove_prefix(std::min(bytes.size(), kMaxData)))
    if (auto put = record(RecordKind::data, bytes.substr(0, kMaxData)); !put) return put;
  return {};
}

Status ExportWriter::image_end() {
  std::string length;
  add_number(length, std::exchange(image_bytes_, 0));
  return record(RecordKind::image_end, length);
}

Status ExportWriter::finish() {
  if (auto put = record(RecordKind::end, {}); !put) return put;
  const std::string digest = digest_.finish();
  bytes_ += digest.size();
  return write_(digest);
}

// ---- reading

Error ExportReader::damaged(std::string cause) const {
  return {ErrorKind::damaged, "import", "file, at byte " + std::to_string(bytes_), std::move(cause)};
}

Result<std::string> ExportReader::take(std::size_t count) {
  // In steps: a length that is made up must not be allocated before the bytes are there.
  constexpr std::size_t kStep = 1u << 20;
  std::string bytes;
  while (bytes.size() < count) {
    const std::size_t at = bytes.size();
    bytes.resize(std::min(count, at + kStep));
    auto got = read_(bytes.data() + at, bytes.size() - at);
    if (!got) return got.error();
    if (*got == 0) return damaged("it ends here, which is before its end: it was cut off");
    bytes.resize(at + *got);
    bytes_ += *got;
  }
  return bytes;
}

Result<ExportReader> ExportReader::begin(Read read, const AskPassphrase& passphrase) {
  ExportReader reader(std::move(read), Sealing());
  auto head = reader.take(kHeadBytes);
  if (!head && head.error().kind != ErrorKind::damaged) return head.error();
  if (!head || !head->starts_with(kMagic)) return refused("it is no exported checkpoint of Stillpoint");
  const auto version = number_at<std::uint32_t>(*head, 8), flags = number_at<std::uint32_t>(*head, 12),
             cost = number_at<std::uint32_t>(*head, 16);
  if (sha256(head->substr(0, kCheckedHead)).substr(0, kHeadBytes - kCheckedHead) != head->substr(kCheckedHead))
    return reader.damaged("its head is not what was written");
  if (version != kVersion)
    return refused("it has version " + std::to_string(version) + ", this program knows version " +
                   std::to_string(kVersion) + ": import it with the newer one");
  const bool sealed = (flags & kSealed) != 0;
  if ((flags & ~kSealed) != 0 || number_at<std::uint32_t>(*head, 20) != 0 ||
      (sealed ? cost < kLeastCost || cost > kMostCost : cost != 0))
    return refused("its head asks for what this version does not know");
  if (sealed) {
    auto text = passphrase();
    if (!text) return text.error();
    auto made = Sealing::from_passphrase(*text, head->substr(kSaltAt, 16), cost);
    if (!made) return made.error();
    reader.sealing_ = std::move(*made);
  }
  if (reader.sealing_.check() != head->substr(kCheckAt, 16))
    return sealed ? refused("the passphrase is not the one that it was exported with")
                  : reader.damaged("its head is not what was written");
  reader.digest_.add(*head);
  reader.head_ = std::move(*head);
  return reader;
}

Status ExportReader::check_order(RecordKind kind) {
  const bool first = number_ == 0;
  if (first != (kind == RecordKind::description)) return damaged("its records are in another order");
  if (kind == RecordKind::end && image_bytes_ != 0) return damaged("an image has no end");
  return {};
}

Status ExportReader::check_end() {
  const std::string expected = digest_.finish();
  auto digest = take(expected.size());
  if (!digest) return digest.error();
  if (*digest != expected) return damaged("its digest is another one");
  char more = 0;
  auto got = read_(&more, 1);
  if (!got) return got.error();
  if (*got != 0) return damaged("something follows its end");
  return {};
}

Result<ExportRecord> ExportReader::next() {
  auto head = take(kRecordHead);
  if (!head) return head.error();
  const auto kind = static_cast<RecordKind>(number_at<std::uint32_t>(*head, 0));
  const auto plain = number_at<std::uint32_t>(*head, 4), stored = number_at<std::uint32_t>(*head, 8);
  if (kind < RecordKind::description || kind > RecordKind::end || plain > most_of(kind) || stored < kTagBytes ||
      stored > ZSTD_compressBound(plain) + kTagBytes)
    return damaged("no record begins there");
  auto sealed = take(stored);
  if (!sealed) return sealed.error();
  auto packed = sealing_.open(number_, head_ + *head, *sealed);
  if (!packed) return damaged("what stands there is not what was written");
  auto bytes = unpack(*packed, plain);
  if (!bytes) return damaged("what stands there does not unpack");
  if (auto ordered = check_order(kind); !ordered) return ordered.error();
  digest_.add(*head);
  digest_.add(*sealed);
  number_ += 1;
  if (kind == RecordKind::data) image_bytes_ += plain;
  if (kind == RecordKind::image_end &&
      (plain != 8 || number_at<std::uint64_t>(*bytes, 0) != std::exchange(image_bytes_, 0)))
    return damaged("an image has another length than it says");
  if (kind == RecordKind::end)
    if (auto whole = check_end(); !whole) return whole.error();
  return ExportRecord{kind, kind == RecordKind::image_end ? std::string() : std::move(*bytes)};
}

}  // namespace stillpoint::cli
