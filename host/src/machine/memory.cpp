#include "machine/memory.h"

#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <optional>
#include <string>

namespace outrider {
namespace {

namespace fs = std::filesystem;

constexpr size_t kUnlimited = std::numeric_limits<size_t>::max();

size_t left_of_machine(const fs::path& root) {
  std::ifstream file(root / "proc/meminfo");
  std::string key, unit;
  for (size_t kibibytes = 0; file >> key >> kibibytes; std::getline(file, unit)) {
    if (key == "MemAvailable:") return kibibytes << 10;
  }
  return static_cast<size_t>(sysconf(_SC_AVPHYS_PAGES)) *
         static_cast<size_t>(sysconf(_SC_PAGE_SIZE));
}

/// A file that holds one number; nothing where it is missing or says "max".
std::optional<size_t> number_in(const fs::path& path) {
  std::ifstream file(path);
  size_t number = 0;
  return file >> number ? std::optional(number) : std::nullopt;
}

/// Bytes of files that the group's memory holds, which are given back when memory is wanted.
size_t cached_files(const fs::path& statistics, bool is_v2) {
  std::ifstream file(statistics);
  const std::string prefix = is_v2 ? "" : "total_";
  size_t sum = 0, value = 0;
  for (std::string key; file >> key >> value;) {
    if (key == prefix + "inactive_file" || key == prefix + "active_file") sum += value;
  }
  return sum;
}

size_t left_of_group(const fs::path& group, bool is_v2) {
  const auto limit = number_in(group / (is_v2 ? "memory.max" : "memory.limit_in_bytes"));
  const auto used = number_in(group / (is_v2 ? "memory.current" : "memory.usage_in_bytes"));
  if (!limit || !used) return kUnlimited;
  const auto cached = cached_files(group / "memory.stat", is_v2);
  const auto held = *used > cached ? *used - cached : 0;
  return *limit > held ? *limit - held : 0;
}

/// The least that a group or one of those above it leaves. Inside a container the group's own path
/// may not be visible, and its root is the container's.
size_t left_below(const fs::path& mount, const std::string& group, bool is_v2) {
  size_t left = left_of_group(mount, is_v2);
  auto path = mount;
  for (const auto& part : fs::path(group).relative_path()) {
    if (part == "..") break;
    left = std::min(left, left_of_group(path /= part, is_v2));
  }
  return left;
}

size_t left_of_control_groups(const fs::path& root) {
  std::ifstream file(root / "proc/self/cgroup");  // "ID:CONTROLLERS:PATH" per line
  size_t left = kUnlimited;
  for (std::string line; std::getline(file, line);) {
    const auto first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const auto controllers = line.substr(first + 1, second - first - 1);
    const auto group = line.substr(second + 1);
    if (controllers.empty()) left = std::min(left, left_below(root / "sys/fs/cgroup", group, true));
    if (controllers == "memory") {
      left = std::min(left, left_below(root / "sys/fs/cgroup/memory", group, false));
    }
  }
  return left;
}

}  // namespace

size_t available_memory(const fs::path& root) {
  return std::min(left_of_machine(root), left_of_control_groups(root));
}

}  // namespace outrider
