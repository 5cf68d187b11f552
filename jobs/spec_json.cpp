#include "jobs/spec_json.h"

#include <nlohmann/json.hpp>

namespace stillpoint::jobs {

nlohmann::json spec_json(const Manifest& manifest, const std::filesystem::path& directory) {
  const auto& checkpoint = manifest.checkpoint;
  nlohmann::json interval = nullptr;
  if (checkpoint.interval_seconds) interval = *checkpoint.interval_seconds;
  const bool built_in = manifest.image == "openmpi";
  return {
      {"name", manifest.name},
      {"image",
       built_in ? manifest.image : std::filesystem::absolute(directory / manifest.image).lexically_normal().string()},
      {"guests", manifest.guests.count},
      {"vcpus", manifest.guests.vcpus},
      {"memoryBytes", manifest.guests.memory_bytes},
      {"diskBytes", manifest.guests.disk_bytes},
      {"ranksPerGuest", manifest.mpi.ranks_per_guest},
      {"command", manifest.mpi.command},
      {"env", nlohmann::json(manifest.mpi.env)},
      {"workdir", manifest.mpi.workdir},
      {"files", manifest.mpi.files},
      {"outputs", manifest.mpi.outputs},
      {"checkpoint",
       {{"intervalSeconds", interval},
        {"intervalAuto", checkpoint.interval_auto},
        {"keep", checkpoint.keep},
        {"whileUploading", checkpoint.while_uploading},
        {"laterDurability", checkpoint.later_durability}}},
      {"durability", checkpoint.durability},
      {"restart", {{"onFailure", manifest.restart.on_failure}, {"maxRestarts", manifest.restart.max_restarts}}},
      {"placement", {{"hosts", manifest.placement.hosts}, {"spread", manifest.placement.spread}}},
  };
}

}  // namespace stillpoint::jobs
