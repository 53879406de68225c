// Files that are refused for what is in them, before anything of them runs.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "outrider/host/plugin_file.h"
#include "wrong_plugins.h"

namespace outrider {
namespace {

using namespace testing;

std::function<void(ProbeFolder&)> header(std::function<void(Elf64_Ehdr&)> change) {
  return bytes([change = std::move(change)](Bytes& file) { edit_header(file, change); });
}

std::function<void(ProbeFolder&)> segments(std::function<void(Elf64_Phdr&)> change) {
  return bytes([change = std::move(change)](Bytes& file) { edit_segments(file, change); });
}

std::function<void(ProbeFolder&)> dynamic(std::function<void(Elf64_Dyn&)> change) {
  return bytes([change = std::move(change)](Bytes& file) { edit_dynamic(file, change); });
}

std::function<void(ProbeFolder&)> text(const std::string& from, const std::string& to) {
  return bytes([=](Bytes& file) { replace_text(file, from, to); });
}

/// The note that holds the stamp, as the offset of its header in the file.
size_t stamp_note_at(const Bytes& file) {
  const auto magic = as_bytes(std::string(kStampMagic, sizeof(kStampMagic)));
  const auto found = std::search(file.begin(), file.end(), magic.begin(), magic.end());
  return static_cast<size_t>(found - file.begin()) - 24;
}

std::function<void(ProbeFolder&)> note(std::function<void(Elf64_Nhdr&)> change) {
  return bytes([change = std::move(change)](Bytes& file) {
    change(*reinterpret_cast<Elf64_Nhdr*>(file.data() + stamp_note_at(file)));
  });
}

TEST_CASE("what is no shared library for this machine") {
  constexpr auto kCode = ErrorCode::kPluginNotElf;
  check_wrong_plugins({
      {"empty", bytes([](Bytes& file) { file.clear(); }), kCode, "no ELF header"},
      {"a script", bytes([](Bytes& file) { file = as_bytes("#!/bin/sh\n"); }), kCode,
       "probe.outrider.so: not a shared library"},
      {"32-bit", header([](auto& h) { h.e_ident[EI_CLASS] = ELFCLASS32; }), kCode,
       "another machine (class 1"},
      {"big-endian", header([](auto& h) { h.e_ident[EI_DATA] = ELFDATA2MSB; }), kCode,
       "needs 64-bit little-endian"},
      {"RISC-V", header([](auto& h) { h.e_machine = EM_RISCV; }), kCode,
       "another machine (class 2, machine 243)"},
      {"a program", header([](auto& h) { h.e_type = ET_EXEC; }), kCode, "no shared library"},
      {"an object file", header([](auto& h) { h.e_type = ET_REL; }), kCode, "no shared library"},
      {"a flood of headers", header([](auto& h) { h.e_phnum = 0xffff; }), kCode,
       "malformed program header table (65535"},
      {"headers of odd size", header([](auto& h) { h.e_phentsize = 57; }), kCode, "of 57 bytes"},
      {"headers elsewhere", header([](auto& h) { h.e_phoff = ~0ull - 8; }), kCode, "truncated: "},
  });
}

/// Where headers, segments and the parts of the stamp's note begin and end, as long as what follows
/// is still loaded.
std::set<size_t> boundaries(Bytes file) {
  const auto at = stamp_note_at(file);
  std::set<size_t> ends = {1, SELFMAG, EI_NIDENT, at, at + sizeof(Elf64_Nhdr), at + 24};
  size_t header_end = sizeof(Elf64_Ehdr), loaded = 0;
  edit_segments(file, [&](Elf64_Phdr& segment) {
    ends.insert({header_end, segment.p_offset, segment.p_offset + segment.p_filesz});
    header_end += sizeof(Elf64_Phdr);
    if (segment.p_type == PT_LOAD) loaded = segment.p_offset + segment.p_filesz;
  });
  ends.erase(0);
  ends.erase(ends.lower_bound(loaded), ends.end());
  return ends;
}

TEST_CASE("a file that ends at a boundary of it") {
  const auto ends = boundaries(read_bytes(built_plugin("probe")));
  CHECK(ends.size() > 15);
  for (const auto end : ends) {
    check_wrong_plugins(
        {{fmt::format("{} bytes", end), bytes([=](Bytes& file) { file.resize(end); }),
          ErrorCode::kPluginNotElf, end < SELFMAG ? "no ELF header" : "truncated: "}});
  }
}

TEST_CASE("a malformed dynamic section") {
  constexpr auto kCode = ErrorCode::kPluginNotElf;
  check_wrong_plugins({
      {"none", segments([](auto& s) { s.p_type = s.p_type == PT_DYNAMIC ? PT_NULL : s.p_type; }),
       kCode, "not exactly one dynamic section"},
      {"two", segments([](auto& s) {
         if (s.p_type == PT_GNU_STACK) s.p_type = PT_DYNAMIC;
       }),
       kCode, "not exactly one dynamic section"},
      {"texts elsewhere", dynamic([](auto& d) {
         if (d.d_tag == DT_STRTAB) d.d_un.d_ptr = 0x7fff'ffff'0000;
       }),
       kCode, "is in no segment"},
      {"a name elsewhere", dynamic([](auto& d) {
         if (d.d_tag == DT_NEEDED) d.d_un.d_val = 1ull << 40;
       }),
       kCode, "a name in its dynamic section is missing"},
      {"no end", dynamic([](auto& d) { d.d_tag = d.d_tag == DT_NULL ? DT_DEBUG : d.d_tag; }), kCode,
       "a dynamic section without an end"},
      {"symbols elsewhere", dynamic([](auto& d) {
         if (d.d_tag == DT_SYMTAB) d.d_un.d_ptr = 0x7fff'ffff'0000;
       }),
       kCode, "is in no segment"},
  });
}

/// The segment of the last note twice, in place of one that is no note.
void repeat_note(Bytes& file) {
  Elf64_Phdr note{};
  edit_segments(file, [&](Elf64_Phdr& s) { note = s.p_type == PT_NOTE ? s : note; });
  edit_segments(file, [&](Elf64_Phdr& s) { s = s.p_type == PT_GNU_STACK ? note : s; });
}

TEST_CASE("no stamp, more than one, or one of a wrong size") {
  constexpr auto kCode = ErrorCode::kPluginBadStamp;
  check_wrong_plugins({
      {"no note", segments([](auto& s) { s.p_type = s.p_type == PT_NOTE ? PT_NULL : s.p_type; }),
       ErrorCode::kPluginNoStamp, "a shared library, but no plugin: it has no stamp"},
      {"another's note", note([](auto& n) { n.n_type = 7; }), ErrorCode::kPluginNoStamp,
       "it has no stamp"},
      {"two", bytes(repeat_note), kCode, "it has 2 stamps instead of one"},
      {"empty", note([](auto& n) { n.n_descsz = 0; }), kCode, "it has 0 bytes"},
      {"a byte short", note([](auto& n) { n.n_descsz -= 1; }), kCode, "it gives its size as"},
      {"a huge one", note([](auto& n) { n.n_descsz = 0xffff'fff0; }), kCode,
       "reaches beyond its segment"},
      {"a huge name", note([](auto& n) { n.n_namesz = 0xffff'fff0; }), kCode,
       "reaches beyond its segment"},
      {"smaller than it is", stamp([](auto& s) { s.stamp_size = 8; }), kCode,
       "gives its size as 8 bytes"},
      {"larger than it is", stamp([](auto& s) { s.stamp_size = 1000000; }), kCode,
       "gives its size as 1000000 bytes"},
      {"wrong magic", note([](auto& n) { reinterpret_cast<char*>(&n)[24] = 'X'; }), kCode,
       "wrong magic bytes"},
  });
}

template <size_t N>
WrongPlugin without_end(const char* title, char (PluginStamp::*field)[N]) {
  return {title, stamp([field](PluginStamp& s) { std::fill_n(s.*field, N, 'a'); }),
          ErrorCode::kPluginBadStamp, "a text without an end"};
}

TEST_CASE("a text of the stamp without an end") {
  check_wrong_plugins(
      {without_end("platform", &PluginStamp::platform), without_end("stdlib", &PluginStamp::stdlib),
       without_end("torch_build", &PluginStamp::torch_build),
       without_end("json_abi", &PluginStamp::json_abi),
       without_end("cuda_archs", &PluginStamp::cuda_archs),
       without_end("plugin_name", &PluginStamp::plugin_name),
       without_end("plugin_version", &PluginStamp::plugin_version),
       without_end("modes", &PluginStamp::modes), without_end("bases", &PluginStamp::bases),
       without_end("draft_models", &PluginStamp::draft_models)});
}

template <size_t N>
WrongPlugin bad_text(char (PluginStamp::*field)[N], const std::string& text,
                     const std::string& part) {
  return {text, stamp([=](PluginStamp& s) { set_text(s.*field, text); }),
          ErrorCode::kPluginBadStamp, part};
}

TEST_CASE("a text of the stamp that is not what it must be") {
  check_wrong_plugins({
      bad_text(&PluginStamp::platform, "\x1b[31mred", "outside printable ASCII"),
      bad_text(&PluginStamp::plugin_name, "../evil", "'../evil' is no plugin name"),
      bad_text(&PluginStamp::plugin_name, "Eagle", "'Eagle' is no plugin name"),
      bad_text(&PluginStamp::plugin_name, "", "'' is no plugin name"),
      bad_text(&PluginStamp::plugin_version, "1.0", "'1.0' is no semantic version"),
      bad_text(&PluginStamp::plugin_version, "01.0.0", "'01.0.0' is no semantic version"),
      bad_text(&PluginStamp::modes, "probe,,x", "'probe,,x' is no list of mode names"),
      bad_text(&PluginStamp::modes, "", "names nothing that the plugin provides"),
      bad_text(&PluginStamp::bases, "a-b", "'a-b' is no list of architectures"),
      bad_text(&PluginStamp::draft_models, "eagle", "'eagle' is no list of MODE/ARCHITECTURE"),
  });
}

/// As an SDK with more fields would write it: into what follows in the file.
void lengthen_stamp(Bytes& file) {
  const auto at = stamp_note_at(file);
  reinterpret_cast<Elf64_Nhdr*>(file.data() + at)->n_descsz += 64;
  edit_stamp(file, [](PluginStamp& stamp) {
    stamp.stamp_size += 64;
    stamp.sdk_abi += 1;
  });
  edit_segments(file, [&](Elf64_Phdr& segment) {
    const bool holds_stamp = segment.p_type == PT_NOTE && segment.p_offset <= at &&
                             at < segment.p_offset + segment.p_filesz;
    if (holds_stamp) segment.p_filesz = at + 24 + sizeof(PluginStamp) + 64 - segment.p_offset;
  });
}

WrongPlugin incompatible(const char* title, std::function<void(PluginStamp&)> change,
                         const std::string& part) {
  return {title, stamp(std::move(change)), ErrorCode::kPluginIncompatible, part};
}

TEST_CASE("a plugin for another program") {
  constexpr auto kCode = ErrorCode::kPluginIncompatible;
  const auto abi = [](uint32_t number) { return fmt::format("built for SDK ABI {},", number); };
  check_wrong_plugins({
      incompatible(
          "newer SDK", [](auto& s) { s.sdk_abi += 1; }, abi(kSdkAbi + 1)),
      incompatible(
          "older SDK", [](auto& s) { s.sdk_abi -= 1; }, abi(kSdkAbi - 1)),
      {"newer, longer stamp", bytes(lengthen_stamp), kCode, abi(kSdkAbi + 1)},
      incompatible(
          "newer LibTorch", [](auto& s) { s.torch_version += 1; },
          "LibTorch 2.11.1, this program for 2.11.0"),
      incompatible(
          "older LibTorch", [](auto& s) { s.torch_version -= 1; },
          "LibTorch 2.10.255, this program for 2.11.0"),
      incompatible(
          "platform", [](auto& s) { set_text(s.platform, "linux_riscv64_gnu"); },
          "the platform linux_riscv64_gnu"),
      incompatible(
          "libc++", [](auto& s) { set_text(s.stdlib, "libc++"); },
          "the standard library libc++, this program for libstdc++"),
      incompatible(
          "JSON", [](auto& s) { set_text(s.json_abi, "json_abi_v2"); },
          "JSON library's ABI json_abi_v2"),
      incompatible(
          "old ABI of libstdc++", [](auto& s) { s.flags ^= kStampCxx11Abi; },
          "without the C++11 ABI of libstdc++"),
      incompatible(
          "debug libstdc++", [](auto& s) { s.flags ^= kStampGlibcxxDebug; },
          "rebuild the plugin against this Outrider"),
      incompatible(
          "ASan", [](auto& s) { s.flags ^= kStampAddressSanitizer; }, "AddressSanitizer"),
      incompatible(
          "TSan", [](auto& s) { s.flags ^= kStampThreadSanitizer; }, "ThreadSanitizer"),
      incompatible(
          "all at once", [](auto& s) { s.sdk_abi += 1, s.torch_version = 0; },
          fmt::format("this program for {}; the plugin was built for LibTorch 0.0.0", kSdkAbi)),
  });
}

TEST_CASE("a plugin for another CUDA than LibTorch's") {
  const auto cuda = host_stamp().cuda_version;
  if (cuda == 0) return;  // a LibTorch without CUDA takes plugins of any
  for (const auto other : {cuda + 1000, cuda - 1000}) {
    check_wrong_plugins({incompatible(
        "CUDA", [=](auto& s) { s.cuda_version = other; },
        fmt::format("built for CUDA {},", other / 1000))});
  }
}

std::function<void(ProbeFolder&)> flags_become(Elf64_Sxword tag) {
  return dynamic([=](Elf64_Dyn& entry) {
    if (entry.d_tag == DT_FLAGS) entry = {tag, {.d_val = 1}};
  });
}

TEST_CASE("a plugin that brings in what it must not, or is not linked as it must be") {
  constexpr auto kCode = ErrorCode::kPluginBadDependency;
  check_wrong_plugins({
      {"RUNPATH", flags_become(DT_RUNPATH), kCode, "it has a RPATH or RUNPATH"},
      {"RPATH", flags_become(DT_RPATH), kCode, "it has a RPATH or RUNPATH"},
      {"one library more", flags_become(DT_NEEDED), kCode, "which no plugin may bring in"},
      {"a filter", flags_become(DT_FILTER), kCode, "which no plugin may bring in"},
      {"an auxiliary filter", flags_become(DT_AUXILIARY), kCode, "which no plugin may bring in"},
      {"another library", text("libstdc++.so.6", "libother.so.66"), kCode,
       "it needs the library libother.so.66, which no plugin may bring in"},
      {"can be unloaded", dynamic([](auto& d) {
         if (d.d_tag == DT_FLAGS_1) d.d_un.d_val &= ~uint64_t{DF_1_NODELETE};
       }),
       kCode, "it was linked without -z nodelete"},
      {"no entry function", text("outrider_plugin_register_v1", "outrider_plugin_register_v0"),
       ErrorCode::kPluginNoEntry,
       "probe 0.1.0 defines no entry function outrider_plugin_register_v1"},
      {"no symbols", dynamic([](auto& d) { d.d_tag = d.d_tag == DT_SYMTAB ? DT_DEBUG : d.d_tag; }),
       ErrorCode::kPluginNoEntry, "OUTRIDER_PLUGIN(registrar)"},
  });
}

}  // namespace
}  // namespace outrider
