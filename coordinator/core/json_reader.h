// Reads a JSON object strictly: each key is asked for by name, and what nobody asked for is an error. All problems are
// collected, each saying where and what was expected. Used on one thread; keep the document alive meanwhile.
#pragma once

#include <concepts>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace stillpoint::coordinator {

class JsonReader {
 public:
  // where: how problems name this object ("spec.checkpoint"), empty for the document itself.
  JsonReader(const nlohmann::json& value, std::string where, std::vector<std::string>& problems)
      : value_(value), where_(std::move(where)), problems_(problems) {
    if (!value_.is_object()) problem("", "expected an object");
  }

  bool has(const std::string& key) const { return value_.is_object() && value_.contains(key); }

  // Leaves target as it is when the key is absent, unless required.
  void read(const std::string& key, std::string& target, bool required = false) {
    if (const auto* v = find(key, required)) {
      if (v->is_string()) target = v->get<std::string>();
      else problem(key, "expected a string");
    }
  }
  void read(const std::string& key, bool& target, bool required = false) {
    if (const auto* v = find(key, required)) {
      if (v->is_boolean()) target = v->get<bool>();
      else problem(key, "expected true or false");
    }
  }
  template <std::unsigned_integral T>
  requires(!std::same_as<T, bool>) void read(const std::string& key, T& target, bool required = false) {
    if (const auto* v = find(key, required)) number(key, *v, target);
  }
  // null counts as absent.
  template <class T>
  void read(const std::string& key, std::optional<T>& target, bool required = false) {
    const auto* v = find(key, required);
    if (v == nullptr || v->is_null()) return;
    T value{};
    read(key, value);
    target = std::move(value);
  }
  void read(const std::string& key, std::vector<std::string>& target, bool required = false) {
    each(key, required, [&](const nlohmann::json& item) {
      if (item.is_string()) target.push_back(item.get<std::string>());
      else problem(key, "expected a list of strings");
    });
  }
  void read(const std::string& key, std::vector<std::uint32_t>& target, bool required = false) {
    each(key, required, [&](const nlohmann::json& item) {
      std::uint32_t value = 0;
      number(key, item, value);
      target.push_back(value);
    });
  }
  // The value of a key of any type, for a reader of its own; null pointer when it is absent.
  const nlohmann::json* find(const std::string& key, bool required = false) {
    asked_.insert(key);
    if (has(key)) return &value_.at(key);
    if (required && value_.is_object()) problem(key, "is missing");
    return nullptr;
  }
  std::string path(const std::string& key) const {
    if (key.empty()) return where_.empty() ? "the document" : where_;
    return where_.empty() ? key : where_ + "." + key;
  }
  // To be called when all keys were asked for.
  void refuse_unknown() {
    if (!value_.is_object()) return;
    for (const auto& [key, ignored] : value_.items())
      if (!asked_.contains(key)) problem(key.substr(0, 64), "is not a known key");
  }
  void problem(const std::string& key, const std::string& what) {
    if (problems_.size() < 50) problems_.push_back(path(key) + ": " + what);
  }

 private:
  template <class T>
  void number(const std::string& key, const nlohmann::json& v, T& target) {
    if (!v.is_number_unsigned() || v.get<std::uint64_t>() > std::numeric_limits<T>::max())
      problem(key, "expected a whole number from 0 to " + std::to_string(std::numeric_limits<T>::max()));
    else target = static_cast<T>(v.get<std::uint64_t>());
  }
  template <class Take>
  void each(const std::string& key, bool required, Take take) {
    const auto* v = find(key, required);
    if (v == nullptr) return;
    if (!v->is_array()) return problem(key, "expected a list");
    for (const auto& item : *v) take(item);
  }

  const nlohmann::json& value_;
  const std::string where_;
  std::vector<std::string>& problems_;
  std::set<std::string> asked_;
};

// "a; b; c" for an error's cause.
inline std::string join_problems(const std::vector<std::string>& problems) {
  std::string all;
  for (const auto& p : problems) all += (all.empty() ? "" : "; ") + p;
  return all;
}

}  // namespace stillpoint::coordinator
