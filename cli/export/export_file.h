// An exported checkpoint as one stream of bytes (docs/export-format.md): a head, then records, then a digest of it all.
//
//   description        JSON, as the coordinator gave it
//   data…, image end   the bytes of each image, one after the other, in the description's order; the output last
//   end
//
// Nothing of a record is given to anybody before its seal was checked, and nothing is allocated by what an unchecked
// number says. An import counts only after the end was read without an error.
//
// Threads: an object belongs to one.
#pragma once

#include <functional>

#include "cli/export/sealing.h"

namespace stillpoint::cli {

inline constexpr std::size_t kHeadBytes = 64;
inline constexpr std::size_t kMaxData = 1u << 20;          // of a record, unpacked
inline constexpr std::size_t kMaxDescription = 64u << 20;  // the same

enum class RecordKind : std::uint32_t { description = 1, data = 2, image_end = 3, end = 4 };

class ExportWriter {
 public:
  using Write = std::function<Status(std::string_view)>;

  // passphrase: none makes a plain file. salt: 16 random bytes.
  static Result<ExportWriter> begin(Write write, const std::optional<std::string>& passphrase, std::string_view salt,
                                    unsigned cost = kCost);
  Status description(std::string_view text);
  Status data(std::string_view bytes);  // any number of them
  Status image_end();
  Status finish();                                // once, last
  std::uint64_t bytes() const { return bytes_; }  // written so far

 private:
  ExportWriter(Write write, Sealing sealing) : write_(std::move(write)), sealing_(std::move(sealing)) {}
  Status record(RecordKind kind, std::string_view plain);
  Status put(std::string_view bytes);

  Write write_;
  Sealing sealing_;
  std::string head_;
  std::uint64_t number_ = 0;       // of the next record
  std::uint64_t image_bytes_ = 0;  // since the last image's end
  std::uint64_t bytes_ = 0;
  RunningDigest digest_;
};

struct ExportRecord {
  RecordKind kind = RecordKind::end;
  std::string bytes;  // of description and data
};

class ExportReader {
 public:
  // Up to so many bytes into the buffer; 0: the end.
  using Read = std::function<Result<std::size_t>(char* buffer, std::size_t most)>;
  // Of files that are sealed, when that is known: the passphrase.
  using AskPassphrase = std::function<Result<std::string>()>;

  // refused: no such file, a newer version, a wrong passphrase. damaged: not what was written.
  static Result<ExportReader> begin(Read read, const AskPassphrase& passphrase);
  // In order; after an error, or the end, nothing more. The end is given when everything was checked.
  Result<ExportRecord> next();
  bool sealed() const { return sealing_.sealed(); }
  std::uint64_t bytes() const { return bytes_; }  // read so far

 private:
  ExportReader(Read read, Sealing sealing) : read_(std::move(read)), sealing_(std::move(sealing)) {}
  Result<std::string> take(std::size_t count);
  Status check_order(RecordKind kind);
  Status check_end();
  Error damaged(std::string cause) const;

  Read read_;
  Sealing sealing_;
  std::string head_;
  std::uint64_t number_ = 0, image_bytes_ = 0, bytes_ = 0;
  RunningDigest digest_;
};

}  // namespace stillpoint::cli
