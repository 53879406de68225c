#include "plugin_fixtures.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>

#include "outrider/host/plugin_lock.h"
#include "outrider/host/sha256.h"

namespace outrider::testing {
namespace {

template <class T>
void edit_at(Bytes& file, size_t offset, const std::function<void(T&)>& edit) {
  REQUIRE(offset + sizeof(T) <= file.size());
  T value;
  std::memcpy(&value, file.data() + offset, sizeof(T));
  edit(value);
  std::memcpy(file.data() + offset, &value, sizeof(T));
}

}  // namespace

PrivateFolder::PrivateFolder() {
  auto pattern = (std::filesystem::temp_directory_path() / "outrider-test-XXXXXX").string();
  REQUIRE(mkdtemp(pattern.data()) != nullptr);
  path_ = std::filesystem::canonical(pattern);
}

PrivateFolder::~PrivateFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

ScopedVariable::ScopedVariable(std::string name, const std::string& value)
    : name_(std::move(name)), was_set_(std::getenv(name_.c_str()) != nullptr) {
  if (was_set_) before_ = std::getenv(name_.c_str());
  setenv(name_.c_str(), value.c_str(), 1);
}

ScopedVariable::~ScopedVariable() {
  was_set_ ? setenv(name_.c_str(), before_.c_str(), 1) : unsetenv(name_.c_str());
}

std::filesystem::path built_plugin(const std::string& name) {
  return std::filesystem::path(OUTRIDER_TEST_PLUGINS) / (name + ".outrider.so");
}

Bytes as_bytes(const std::string& text) {
  Bytes bytes(text.size());
  std::memcpy(bytes.data(), text.data(), text.size());
  return bytes;
}

Bytes read_bytes(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  REQUIRE(file);
  return as_bytes({std::istreambuf_iterator<char>(file), {}});
}

void write_bytes(const std::filesystem::path& path, const Bytes& bytes) {
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(bytes.data()),
             static_cast<std::streamsize>(bytes.size()));
  REQUIRE(file.flush());
  std::filesystem::permissions(path, std::filesystem::perms{0644});
}

void edit_stamp(Bytes& plugin, const std::function<void(PluginStamp&)>& edit) {
  const auto magic = as_bytes(std::string(kStampMagic, sizeof(kStampMagic)));
  const auto found = std::search(plugin.begin(), plugin.end(), magic.begin(), magic.end());
  REQUIRE(found != plugin.end());
  edit_at(plugin, static_cast<size_t>(found - plugin.begin()), edit);
}

Bytes renamed(Bytes plugin, const std::string& name, const std::string& version) {
  edit_stamp(plugin, [&](PluginStamp& stamp) {
    set_text(stamp.plugin_name, name);
    set_text(stamp.plugin_version, version);
  });
  return plugin;
}

void edit_header(Bytes& file, const std::function<void(Elf64_Ehdr&)>& edit) {
  edit_at(file, 0, edit);
}

void edit_segments(Bytes& file, const std::function<void(Elf64_Phdr&)>& edit) {
  Elf64_Ehdr header;
  edit_header(file, [&](Elf64_Ehdr& found) { header = found; });
  for (size_t i = 0; i < header.e_phnum; ++i) {
    edit_at(file, header.e_phoff + i * sizeof(Elf64_Phdr), edit);
  }
}

void edit_dynamic(Bytes& file, const std::function<void(Elf64_Dyn&)>& edit) {
  Elf64_Phdr dynamic{};
  edit_segments(file, [&](Elf64_Phdr& segment) {
    if (segment.p_type == PT_DYNAMIC) dynamic = segment;
  });
  for (size_t at = 0; at < dynamic.p_filesz; at += sizeof(Elf64_Dyn)) {
    edit_at(file, dynamic.p_offset + at, edit);
  }
}

void replace_text(Bytes& file, const std::string& from, const std::string& to) {
  REQUIRE(from.size() == to.size());
  const auto pattern = as_bytes(from), replacement = as_bytes(to);
  auto at = std::search(file.begin(), file.end(), pattern.begin(), pattern.end());
  REQUIRE(at != file.end());
  while (at != file.end()) {
    std::copy(replacement.begin(), replacement.end(), at);
    at = std::search(at + 1, file.end(), pattern.begin(), pattern.end());
  }
}

ProbeFolder::ProbeFolder(const std::function<void(Bytes&)>& change) {
  unsetenv("OUTRIDER_PROBE_RAN");
  auto bytes = read_bytes(built_plugin("probe"));
  change(bytes);
  write_bytes(file(), bytes);
  lock();
}

void ProbeFolder::lock() const {
  PluginLock lock;
  lock.entries = {{"probe.outrider.so", "probe", "0.1.0", sha256_of_file(file())}};
  lock.write(folder.path());
}

bool ProbeFolder::ran() const { return std::getenv("OUTRIDER_PROBE_RAN") != nullptr; }

void check_error(ErrorCode code, const std::string& part, const std::function<void()>& run) {
  try {
    run();
  } catch (const Error& e) {
    const std::string text = std::string(e.what()) + "\nhint: " + e.hint();
    CAPTURE(text);
    CHECK(error_code_name(e.code()) == error_code_name(code));
    CHECK(text.find(part) != std::string::npos);
    return;
  }
  FAIL_CHECK("nothing was thrown instead of ", std::string(error_code_name(code)), ": ", part);
}

}  // namespace outrider::testing
