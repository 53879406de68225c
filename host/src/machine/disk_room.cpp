#include "machine/disk_room.h"

#include <fmt/format.h>

#include <limits>
#include <system_error>

#include "outrider/error.h"
#include "outrider/text.h"

namespace outrider {

namespace fs = std::filesystem;

std::optional<uint64_t> free_bytes(const fs::path& path) {
  std::error_code error;
  auto existing = fs::absolute(path, error);
  while (!fs::exists(existing, error) && existing.has_relative_path()) {
    existing = existing.parent_path();
  }
  const auto space = fs::space(existing, error);
  const bool is_told =
      !error && space.capacity > 0 && space.capacity != std::numeric_limits<std::uintmax_t>::max();
  return is_told ? std::optional<uint64_t>(space.available) : std::nullopt;
}

std::string format_bytes(uint64_t bytes) {
  const auto value = static_cast<double>(bytes);
  if (value < 999.5) return fmt::format("{} B", bytes);
  if (value < 999.5e3) return fmt::format("{:.1f} kB", value / 1e3);
  if (value < 999.5e6) return fmt::format("{:.1f} MB", value / 1e6);
  return fmt::format("{:.1f} GB", value / 1e9);
}

void require_free(const fs::path& path, const std::string& what, uint64_t bytes,
                  const std::string& hint) {
  const auto free = free_bytes(path);
  if (!free || with_margin(bytes) <= *free) return;
  throw Error(ErrorCode::kWriteFailed,
              fmt::format("{}: {} takes {}, its disk has {} free", in_quotes(path.string()), what,
                          format_bytes(with_margin(bytes)), format_bytes(*free)),
              hint);
}

uint64_t with_margin(uint64_t bytes) { return bytes + bytes / 100 + (uint64_t{1} << 18); }

}  // namespace outrider
