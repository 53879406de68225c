#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>

#include "outrider/sdk/registrar.h"

namespace outrider {

/// Where the entry function writes what went wrong.
struct PluginErrorText {
  char text[1024];
};

/// The type of the one exported symbol of a plugin, `outrider_plugin_register_v1`. Returns 0, or an
/// error with its text in `error`.
using PluginEntry = int32_t (*)(Registrar* registrar, PluginErrorText* error) noexcept;

namespace detail {

template <class Register>
int32_t run_plugin_entry(Register register_all, Registrar* registrar,
                         PluginErrorText* error) noexcept {
  try {
    register_all(*registrar);
    return 0;
  } catch (const std::exception& e) {
    std::snprintf(error->text, sizeof(error->text), "%s", e.what());
  } catch (...) {
    std::snprintf(error->text, sizeof(error->text), "an exception that is no std::exception");
  }
  return 1;
}

}  // namespace detail
}  // namespace outrider

/// Defines a plugin's entry function. Everything a plugin registers is registered in its body.
///
///     OUTRIDER_PLUGIN(registrar) { registrar.add(std::make_unique<MyMode>()); }
#define OUTRIDER_PLUGIN(registrar_name)                                                   \
  static void outrider_register_all(::outrider::Registrar& registrar_name);               \
  extern "C" __attribute__((visibility("default"))) int32_t outrider_plugin_register_v1(  \
      ::outrider::Registrar* registrar, ::outrider::PluginErrorText* error) noexcept {    \
    return ::outrider::detail::run_plugin_entry(outrider_register_all, registrar, error); \
  }                                                                                       \
  static void outrider_register_all(::outrider::Registrar& registrar_name)
