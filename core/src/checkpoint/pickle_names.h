#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "pickle_values.h"

namespace outrider::pickle {

/// One of the few Python objects that tensors need, or nothing.
std::optional<GlobalRef> find_global(std::string_view module, std::string_view name);

/// "0x93 (STACK_GLOBAL)": how messages name an instruction that is refused.
std::string instruction_name(uint8_t code);

}  // namespace outrider::pickle
