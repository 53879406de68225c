#pragma once

#include <ATen/core/dispatch/Dispatcher.h>

namespace outrider {

/// The dispatcher's handle of a registered operator, to be kept: looking it up takes time.
/// `Signature` is the C++ type of its schema. Throws c10::Error for an unknown name or another
/// type.
template <class Signature>
c10::TypedOperatorHandle<Signature> find_operator(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

}  // namespace outrider
