#include "outrider/host/plugin_file.h"

#include <fmt/format.h>
#include <unistd.h>

#include <utility>

#include "outrider/error.h"
#include "outrider/host/sha256.h"
#include "outrider/text.h"
#include "plugins/stamp_info.h"
#include "plugins/trust.h"

namespace outrider {
namespace {

std::string_view as_text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

[[noreturn]] void fail(ErrorCode code, const PluginInfo& info, const std::string& what,
                       const std::string& hint) {
  throw Error(code, fmt::format("plugin {}: {}", printable(info.path.string()), what), hint);
}

void check_stamp_count(const ElfFacts& facts, const PluginInfo& info) {
  constexpr auto kHint = "build the plugin with outrider_add_plugin(), which writes one stamp";
  if (facts.stamps.empty()) {
    fail(ErrorCode::kPluginNoStamp, info, "a shared library, but no plugin: it has no stamp",
         kHint);
  }
  if (facts.stamps.size() > 1) {
    fail(ErrorCode::kPluginBadStamp, info,
         fmt::format("it has {} stamps instead of one", facts.stamps.size()), kHint);
  }
}

void check_dependencies(const ElfFacts& facts, const PluginInfo& info) {
  const auto problems = dependency_problems(facts);
  if (problems.empty()) return;
  fail(ErrorCode::kPluginBadDependency, info,
       fmt::format("{} {} is not linked as a plugin must be: {}", info.name,
                   info.version.to_string(), join(problems, "; ")),
       "build it with outrider_add_plugin(); link other libraries statically");
}

void check_entry(const ElfFacts& facts, const PluginInfo& info) {
  if (facts.has_entry) return;
  fail(ErrorCode::kPluginNoEntry, info,
       fmt::format("{} {} defines no entry function {}", info.name, info.version.to_string(),
                   kEntrySymbol),
       "define it with OUTRIDER_PLUGIN(registrar) { … }");
}

}  // namespace

PluginFile PluginFile::open(const std::filesystem::path& path) {
  auto opened = open_trusted(path);
  PluginFile file;
  file.examine(path, read_whole(opened, path));
  file.descriptor_ = opened.release();
  return file;
}

PluginFile PluginFile::open_source(const std::filesystem::path& path,
                                   std::vector<std::byte>& content) {
  auto opened = outrider::open_source(path);
  content = read_whole(opened, path);
  PluginFile file;
  file.examine(path, content);
  file.descriptor_ = opened.release();
  return file;
}

void PluginFile::examine(const std::filesystem::path& path, std::span<const std::byte> content) {
  info_.path = path;
  info_.sha256 = sha256_of(as_text(content));
  facts_ = read_elf_facts(content, path.string());
  if (facts_.stamps.size() == 1) describe(facts_.stamps.front(), info_);
}

PluginFile::PluginFile(PluginFile&& other) noexcept
    : descriptor_(std::exchange(other.descriptor_, -1)),
      keep_open_(other.keep_open_),
      facts_(std::move(other.facts_)),
      info_(std::move(other.info_)) {}

PluginFile& PluginFile::operator=(PluginFile&& other) noexcept {
  std::swap(descriptor_, other.descriptor_);
  std::swap(keep_open_, other.keep_open_);
  std::swap(facts_, other.facts_);
  std::swap(info_, other.info_);
  return *this;
}

PluginFile::~PluginFile() {
  if (descriptor_ >= 0 && !keep_open_) ::close(descriptor_);
}

void PluginFile::check() const {
  check_stamp_count(facts_, info_);
  check_compatibility(facts_.stamps.front(), info_);
  check_dependencies(facts_, info_);
  check_entry(facts_, info_);
}

std::string PluginFile::descriptor_path() const {
  return fmt::format("/proc/{}/fd/{}", getpid(), descriptor_);
}

void PluginFile::keep_open() { keep_open_ = true; }

}  // namespace outrider
