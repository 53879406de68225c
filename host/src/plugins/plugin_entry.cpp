#include "plugins/plugin_entry.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <algorithm>
#include <boost/dll/shared_library.hpp>
#include <string_view>
#include <system_error>
#include <utility>

#include "outrider/error.h"
#include "outrider/sdk/plugin.h"
#include "outrider/text.h"
#include "plugins/plugin_title.h"

namespace outrider {
namespace {

using boost::dll::shared_library;

constexpr size_t kLongestForeignText = 1000;

[[noreturn]] void fail(ErrorCode code, const PluginInfo& plugin, std::string_view what,
                       std::string_view text, const std::string& hint) {
  throw Error(code,
              fmt::format("plugin {} {}: {}", plugin_title(plugin), what,
                          printable(text, kLongestForeignText)),
              hint);
}

/// The dynamic linker's message without the name that it knows the file by.
std::string link_error(const std::string& opened_as) {
  const char* text = dlerror();
  std::string message = text == nullptr ? "unknown reason" : text;
  if (message.starts_with(opened_as + ": ")) message.erase(0, opened_as.size() + 2);
  return message;
}

/// Kept for good: autograd graphs and the dispatcher point into plugins until the process ends.
std::vector<shared_library>& open_libraries() {
  static auto& libraries = *new std::vector<shared_library>;
  return libraries;
}

const shared_library& open_library(PluginFile& file) {
  using boost::dll::load_mode::rtld_local;
  using boost::dll::load_mode::rtld_now;
  shared_library library;
  std::error_code error;
  library.load(file.descriptor_path(), error, rtld_now | rtld_local);
  if (error) {
    fail(ErrorCode::kPluginLinkFailed, file.info(), "cannot be loaded",
         link_error(file.descriptor_path()), "rebuild the plugin against this Outrider");
  }
  // glibc knows open libraries by their path: a reused descriptor number would name another file.
  file.keep_open();
  return open_libraries().emplace_back(std::move(library));
}

class StagingRegistrar final : public ModeRegistrar {
 public:
  void add(std::unique_ptr<const ModeDescriptor> mode) override {
    if (mode == nullptr) {
      throw Error(ErrorCode::kPluginRegisterFailed, "a mode that is a null pointer");
    }
    modes_.push_back(std::move(mode));
  }

  std::vector<std::unique_ptr<const ModeDescriptor>> take() { return std::move(modes_); }

 private:
  std::vector<std::unique_ptr<const ModeDescriptor>> modes_;
};

void check_names(const PluginInfo& plugin,
                 const std::vector<std::unique_ptr<const ModeDescriptor>>& modes) {
  std::vector<std::string> registered, promised = plugin.modes;
  for (const auto& mode : modes) registered.push_back(mode->name());
  std::sort(registered.begin(), registered.end());
  std::sort(promised.begin(), promised.end());
  if (registered == promised) return;
  fail(ErrorCode::kPluginRegisterFailed, plugin, "does not register the modes that its stamp names",
       fmt::format("it registers [{}], its stamp names [{}]", join(registered, ", "),
                   join(promised, ", ")),
       "name the registered modes under MODES in the plugin's outrider_add_plugin()");
}

}  // namespace

std::vector<std::unique_ptr<const ModeDescriptor>> enter_plugin(PluginFile& file) {
  const auto& library = open_library(file);
  if (!library.has(kEntrySymbol)) {
    fail(ErrorCode::kPluginNoEntry, file.info(), "has no entry function", kEntrySymbol,
         "define it with OUTRIDER_PLUGIN(registrar) { … }");
  }
  auto& entry = library.get<int32_t(ModeRegistrar*, PluginErrorText*)>(kEntrySymbol);
  StagingRegistrar registrar;
  PluginErrorText error{};
  if (entry(&registrar, &error) != 0) {
    error.text[sizeof(error.text) - 1] = '\0';
    fail(ErrorCode::kPluginRegisterFailed, file.info(), "failed in its entry function", error.text,
         "this is a defect of the plugin: report it to its author");
  }
  auto modes = registrar.take();
  check_names(file.info(), modes);
  return modes;
}

}  // namespace outrider
