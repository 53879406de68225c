#include "distributed/process_place.h"

#include <fmt/format.h>

#include <charconv>
#include <cstdlib>
#include <string_view>

#include "outrider/problems.h"
#include "outrider/text.h"

namespace outrider {
namespace {

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

int64_t read_number(const char* name, int64_t least, int64_t most, Problems& problems) {
  const auto text = variable(name);
  int64_t number = least;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  const bool is_number = error == std::errc() && end == text.data() + text.size();
  if (text.empty()) {
    problems.add(fmt::format("{} is not set", name));
  } else if (!is_number || number < least || number > most) {
    problems.add(fmt::format("{} is '{}', accepted is a number from {} to {}", name,
                             printable(text), least, most));
    number = least;
  }
  return number;
}

}  // namespace

std::optional<ProcessPlace> process_place() {
  constexpr int64_t kMostProcesses = 65536;
  const auto size = variable("WORLD_SIZE");
  if (size.empty() || size == "1") return std::nullopt;
  Problems problems;
  ProcessPlace place;
  place.world_size = read_number("WORLD_SIZE", 1, kMostProcesses, problems);
  const int64_t last = problems.empty() ? place.world_size - 1 : kMostProcesses - 1;
  place.rank = read_number("RANK", 0, last, problems);
  place.local_rank = read_number("LOCAL_RANK", 0, last, problems);
  place.address = variable("MASTER_ADDR");
  problems.add_when(place.address.empty(), "MASTER_ADDR is not set");
  place.port = static_cast<uint16_t>(read_number("MASTER_PORT", 1, 65535, problems));
  place.launcher_serves = variable("TORCHELASTIC_USE_AGENT_STORE") == "True";
  place.start = variable("TORCHELASTIC_RESTART_COUNT");
  problems.throw_in_a_line(ErrorCode::kInvalidArgument,
                           "the environment says that several processes train together, but",
                           "start them with torchrun --no-python, or unset WORLD_SIZE to train "
                           "with one process");
  return place;
}

}  // namespace outrider
