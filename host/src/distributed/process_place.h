#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "outrider/api.h"

namespace outrider {

/// This process among those that a launcher such as torchrun started together.
struct ProcessPlace {
  int64_t rank = 0, world_size = 1, local_rank = 0;
  std::string address;
  uint16_t port = 0;
  bool launcher_serves = false;  // the store that processes meet at; else the first process does
  std::string start = "0";       // changes where the launcher starts all of them again
};

/// Read from the variables that torchrun sets; nothing where WORLD_SIZE is absent or 1. Throws
/// kInvalidArgument naming every variable that is missing or malformed.
OUTRIDER_API std::optional<ProcessPlace> process_place();

}  // namespace outrider
