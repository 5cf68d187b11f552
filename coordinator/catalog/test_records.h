// Catalogs for tests, with something in every field of every record. One thread.
#pragma once

#include <doctest/doctest.h>
#include <unistd.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "coordinator/catalog/catalog.h"
#include "coordinator/core/spec_json.h"

namespace stillpoint::coordinator::testing {

struct Directory {
  std::filesystem::path path;
  Directory() {
    std::string name = (std::filesystem::temp_directory_path() / "stillpoint-catalog-XXXXXX").string();
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    path = name;
  }
  ~Directory() { std::filesystem::remove_all(path); }
  std::filesystem::path file() const { return path / "catalog.db"; }
};

JobRecord rich_job(const std::string& id);
EpochRecord rich_epoch(std::uint64_t number, const std::string& job);  // committed, of a rich_job
void check_equal(const JobRecord& a, const JobRecord& b);
void check_equal(const EpochRecord& a, const EpochRecord& b);
void check_equal(const CatalogState& a, const CatalogState& b);
Catalog must_open(const std::filesystem::path& path);
CatalogState must_load(Catalog& catalog);
// Three jobs, the second one removed, with four checkpoints each, hosts and history; closed again.
void make_rich_catalog(const std::filesystem::path& path);

}  // namespace stillpoint::coordinator::testing
