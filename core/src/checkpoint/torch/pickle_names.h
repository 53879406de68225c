#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "pickle_values.h"

namespace outrider::pickle {

/// One of the few Python objects that tensors need, or nothing.
std::optional<GlobalRef> find_global(std::string_view module, std::string_view name);

/// The class in module torch for storages of a safetensors dtype, or empty.
std::string_view storage_class(std::string_view dtype);

/// "0x93 (STACK_GLOBAL)": how messages name an instruction that is refused.
std::string instruction_name(uint8_t code);

}  // namespace outrider::pickle
