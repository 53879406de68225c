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

/// noexcept: what a static constructor throws would leave the dynamic linker's locks held behind
/// it. dlopen() is declared to throw nothing, so that else it depends on its caller's code whether
/// the process ends or goes on like that.
bool open_or_end_process(shared_library& library, const std::string& path) noexcept {
  using boost::dll::load_mode::rtld_local;
  using boost::dll::load_mode::rtld_now;
  std::error_code error;
  library.load(path, error, rtld_now | rtld_local);
  return !error;
}

const shared_library& open_library(PluginFile& file) {
  shared_library library;
  if (!open_or_end_process(library, file.descriptor_path())) {
    fail(ErrorCode::kPluginLinkFailed, file.info(), "cannot be loaded",
         link_error(file.descriptor_path()), "rebuild the plugin against this Outrider");
  }
  // glibc knows open libraries by their path: a reused descriptor number would name another file.
  file.keep_open();
  return open_libraries().emplace_back(std::move(library));
}

class StagingRegistrar final : public Registrar {
 public:
  void add(std::unique_ptr<const ModeDescriptor> mode) override {
    if (mode == nullptr) refuse("a mode that is a null pointer");
    content_.modes.push_back(std::move(mode));
  }
  void add_base(std::string architecture, BaseModelRegistry::Factory factory) override {
    if (!factory || content_.bases.contains(architecture)) {
      refuse(fmt::format("base {} twice, or without a factory", in_quotes(architecture)));
    }
    content_.bases.emplace(std::move(architecture), std::move(factory));
  }
  void add_draft_model(std::string mode, std::string architecture,
                       DraftModelRegistry::Factory factory) override {
    const std::pair key(std::move(mode), std::move(architecture));
    if (!factory || content_.draft_models.contains(key)) {
      refuse(fmt::format("the draft class of mode {} for {} twice, or without a factory",
                         in_quotes(key.first), in_quotes(key.second)));
    }
    content_.draft_models.emplace(key, std::move(factory));
  }

  PluginContent take() { return std::move(content_); }

 private:
  [[noreturn]] static void refuse(const std::string& what) {
    throw Error(ErrorCode::kPluginRegisterFailed, what);
  }

  PluginContent content_;
};

void check_names(const PluginInfo& plugin, const char* kind, const char* argument,
                 std::vector<std::string> registered, std::vector<std::string> promised) {
  std::sort(registered.begin(), registered.end());
  std::sort(promised.begin(), promised.end());
  if (registered == promised) return;
  fail(ErrorCode::kPluginRegisterFailed, plugin,
       fmt::format("does not register the {} that its stamp names", kind),
       fmt::format("it registers [{}], its stamp names [{}]", join(registered, ", "),
                   join(promised, ", ")),
       fmt::format("name what is registered under {} in the plugin's outrider_add_plugin()",
                   argument));
}

void check_names(const PluginInfo& plugin, const PluginContent& content) {
  std::vector<std::string> modes, bases, draft_models;
  for (const auto& mode : content.modes) modes.push_back(mode->name());
  for (const auto& [name, factory] : content.bases) bases.push_back(name);
  for (const auto& [key, factory] : content.draft_models) {
    draft_models.push_back(key.first + "/" + key.second);
  }
  check_names(plugin, "modes", "MODES", modes, plugin.modes);
  check_names(plugin, "bases", "BASES", bases, plugin.bases);
  check_names(plugin, "draft models", "DRAFT_MODELS", draft_models, plugin.draft_models);
}

}  // namespace

PluginContent enter_plugin(PluginFile& file) {
  const auto& library = open_library(file);
  if (!library.has(kEntrySymbol)) {
    fail(ErrorCode::kPluginNoEntry, file.info(), "has no entry function", kEntrySymbol,
         "define it with OUTRIDER_PLUGIN(registrar) { … }");
  }
  return enter_plugin(file.info(),
                      &library.get<int32_t(Registrar*, PluginErrorText*) noexcept>(kEntrySymbol));
}

PluginContent enter_plugin(const PluginInfo& plugin, PluginEntry entry) {
  StagingRegistrar registrar;
  PluginErrorText error{};
  if (entry(&registrar, &error) != 0) {
    error.text[sizeof(error.text) - 1] = '\0';
    fail(ErrorCode::kPluginRegisterFailed, plugin, "failed in its entry function", error.text,
         "this is a defect of the plugin: report it to its author");
  }
  auto content = registrar.take();
  check_names(plugin, content);
  return content;
}

}  // namespace outrider
