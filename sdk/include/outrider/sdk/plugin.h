#pragma once

#include <cstdint>
#include <cstdio>
#include <exception>

#include "outrider/sdk/plugin_entry.h"
#include "outrider/sdk/registrar.h"

namespace outrider {

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

/// The entry function's symbol: outrider_add_plugin() gives every plugin its own, so that several
/// can be linked into one program, and exports it from the plugin's file under the common name.
#ifndef OUTRIDER_PLUGIN_ENTRY
#define OUTRIDER_PLUGIN_ENTRY outrider_plugin_register_v1
#endif

/// Defines a plugin's entry function. Everything a plugin registers is registered in its body.
///
///     OUTRIDER_PLUGIN(registrar) { registrar.add(std::make_unique<MyMode>()); }
#define OUTRIDER_PLUGIN(registrar_name)                                                   \
  static void outrider_register_all(::outrider::Registrar& registrar_name);               \
  extern "C" __attribute__((visibility("default"))) int32_t OUTRIDER_PLUGIN_ENTRY(        \
      ::outrider::Registrar* registrar, ::outrider::PluginErrorText* error) noexcept {    \
    return ::outrider::detail::run_plugin_entry(outrider_register_all, registrar, error); \
  }                                                                                       \
  static void outrider_register_all(::outrider::Registrar& registrar_name)
