// Images that leave the site or come from another one, piece by piece: the host's end of an export and of an import. An
// image is read, or written, by one piece after the other; who asks for the last piece once more gets the same answer.
// What nobody goes on with is given up after a while, and so is everything when the daemon stops; of an image that was
// not written to its end nothing is left.
//
// Threads: any, side by side for different images; carry_out() blocks. The store is borrowed.
#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <stop_token>
#include <string>
#include <vector>

#include "host.pb.h"
#include "node-daemon/store/image_store.h"

namespace stillpoint::node {

class ImageTransfers {
 public:
  using Clock = std::chrono::steady_clock;

  // Bytes of a piece that is read: at least so many, unless the image ends.
  static constexpr std::size_t kPieceBytes = 512u << 10;
  static constexpr std::chrono::minutes kIdle{2};

  explicit ImageTransfers(ImageStore& store) : store_(store) {}

  // ask: a ReadImage, WriteImage or KeepImages. The answer's body, or its failure.
  wire::FromHost carry_out(const wire::ToHost& ask);
  // Images of these epochs that are being written are given up; not from two threads at once with carry_out() of the
  // same job.
  void forget(const JobId& job, const std::vector<Epoch>& epochs);
  // Gives up what was not gone on with for kIdle before now.
  void expire(Clock::time_point now = Clock::now());
  // Calls under way end soon; later ones fail.
  void stop();

 private:
  struct Reading {
    std::mutex mutex;  // of one call at a time
    std::unique_ptr<ImageReader> reader;
    std::uint64_t begin = 0;  // of `last`, in the image
    wire::ImagePiece last;    // as it was given
    std::string next;         // read, not given yet
    Clock::time_point used{};
  };
  struct Writing {
    std::unique_ptr<ImageWriter> writer;  // none after the last piece
    std::uint64_t begin = 0, end = 0;     // of the newest piece
    wire::ImageWritten answer;
    Clock::time_point used{};
  };
  using WriteKey = std::pair<std::string, std::uint64_t>;  // job, epoch
  using PartKey = std::pair<std::uint32_t, bool>;          // guest, disk

  Result<wire::ImagePiece> read(const wire::ReadImage& ask);
  Status open(Reading& reading, const wire::ReadImage& ask);
  Status fill(Reading& reading);
  Result<wire::ImageWritten> write(const wire::ToHost& ask);
  Result<std::shared_ptr<Writing>> writing_of(const wire::ToHost& ask);
  Result<wire::ImagesKept> keep(const wire::KeepImages& ask);

  ImageStore& store_;
  std::stop_source stopping_;
  std::mutex mutex_;  // guards the maps; never held while an image is read or written
  std::map<std::string, std::shared_ptr<Reading>> readings_;  // by path; shared with the call under way
  std::map<WriteKey, std::map<PartKey, std::shared_ptr<Writing>>> writings_;
};

// Whether a disk that somebody else made may be given to a machine of this host: a qcow2 file that stands for itself.
// One that names another file, as its backing or for its data, would show that file of the host to the guest.
Status check_foreign_disk(std::string_view head);
inline constexpr std::size_t kDiskHeadBytes = 104;

}  // namespace stillpoint::node
