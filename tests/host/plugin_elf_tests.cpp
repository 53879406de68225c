#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <typeinfo>

#include "outrider/host/plugin_file.h"
#include "outrider/json.h"
#include "outrider/text.h"
#include "outrider/version.h"
#include "plugin_fixtures.h"

namespace outrider {
namespace {

using namespace testing;

std::string output_of(const std::string& command) {
  std::FILE* pipe = popen(command.c_str(), "r");
  REQUIRE(pipe != nullptr);
  std::string output;
  for (int c = std::fgetc(pipe); c != EOF; c = std::fgetc(pipe))
    output.push_back(static_cast<char>(c));
  REQUIRE(pclose(pipe) == 0);
  return output;
}

/// Checks what reading a changed copy of the probe says.
void check_refused(ErrorCode code, const std::string& part,
                   const std::function<void(Bytes&)>& change) {
  auto file = read_bytes(built_plugin("probe"));
  change(file);
  check_error(code, part, [&] { read_elf_facts(file, "probe"); });
}

void check_stamp_refused(const std::string& part, const std::function<void(PluginStamp&)>& edit) {
  check_refused(ErrorCode::kPluginBadStamp, part, [&](Bytes& file) { edit_stamp(file, edit); });
}

/// The note that holds the stamp, as the offset of its header in the file.
size_t stamp_note_at(const Bytes& file) {
  const auto magic = as_bytes(std::string(kStampMagic, sizeof(kStampMagic)));
  const auto found = std::search(file.begin(), file.end(), magic.begin(), magic.end());
  return static_cast<size_t>(found - file.begin()) - 24;
}

Elf64_Nhdr& stamp_note(Bytes& file) {
  return *reinterpret_cast<Elf64_Nhdr*>(file.data() + stamp_note_at(file));
}

TEST_CASE("a built plugin says in its file what it is") {
  const auto facts = read_elf_facts(read_bytes(built_plugin("tiny")), "tiny");
  REQUIRE(facts.stamps.size() == 1);
  const auto& stamp = facts.stamps.front();
  CHECK(std::string(stamp.plugin_name) == "tiny");
  CHECK(std::string(stamp.plugin_version) == "0.1.0");
  CHECK(std::string(stamp.modes) == "tiny");
  CHECK(stamp.cuda_version == 0);
  CHECK(std::string(stamp.cuda_archs).empty());
  CHECK(stamp.stamp_size == sizeof(PluginStamp));
  CHECK(incompatibilities(stamp, host_stamp()).empty());
  CHECK(facts.is_nodelete);
  CHECK_FALSE(facts.has_rpath);
  CHECK(std::ranges::count(facts.needed, "liboutrider_core.so") == 1);
  CHECK(dependency_problems(facts).empty());
}

TEST_CASE("a built plugin defines its entry function for the linker and nothing else") {
  const auto symbols =
      output_of("nm -D --defined-only --format=just-symbols " + built_plugin("tiny").string());
  CHECK(symbols == "outrider_plugin_register_v1\n");
}

TEST_CASE("the stamp of this program names the libraries it was compiled with") {
  const auto stamp = host_stamp();
  CHECK(std::string(typeid(Json).name()).find(stamp.json_abi) != std::string::npos);
  CHECK(std::string(stamp.json_abi).starts_with("json_abi"));
  CHECK(std::string(stamp.plugin_version) == version());
  CHECK(stamp.torch_version == (2u << 16 | 11u << 8));
  CHECK(std::string(stamp.stdlib) == "libstdc++");
  CHECK((stamp.flags & kStampCxx11Abi) != 0);
}

TEST_CASE("files that are no shared library for this machine are refused") {
  constexpr auto kCode = ErrorCode::kPluginNotElf;
  check_error(kCode, "no ELF header", [] { read_elf_facts({}, "empty"); });
  check_error(kCode, "\\x1b[31m: not a shared library",
              [] { read_elf_facts(as_bytes("#!/bin/sh\n"), "\x1b[31m"); });
  check_refused(kCode, "another machine (class 1", [](Bytes& file) {
    edit_header(file, [](Elf64_Ehdr& header) { header.e_ident[EI_CLASS] = ELFCLASS32; });
  });
  check_refused(kCode, "another machine (class 2, machine 243)", [](Bytes& file) {
    edit_header(file, [](Elf64_Ehdr& header) { header.e_machine = EM_RISCV; });
  });
  check_refused(kCode, "no shared library", [](Bytes& file) {
    edit_header(file, [](Elf64_Ehdr& header) { header.e_type = ET_EXEC; });
  });
  check_refused(kCode, "malformed program header table", [](Bytes& file) {
    edit_header(file, [](Elf64_Ehdr& header) { header.e_phnum = 0xffff; });
  });
  check_refused(kCode, "truncated: ", [](Bytes& file) {
    edit_header(file, [](Elf64_Ehdr& header) { header.e_phoff = ~0ull - 8; });
  });
}

TEST_CASE("a truncated file is refused wherever it ends") {
  const auto whole = read_bytes(built_plugin("probe"));
  for (const size_t size : {4ul, 63ul, 64ul, 100ul, 1000ul, whole.size() / 2}) {
    check_error(ErrorCode::kPluginNotElf,
                "truncated: ", [&] { read_elf_facts(std::span(whole).first(size), "part"); });
  }
}

TEST_CASE("no changed byte of the headers leads a reader out of the file") {
  const auto whole = read_bytes(built_plugin("probe"));
  auto file = whole;
  const auto headers = sizeof(Elf64_Ehdr) + 16 * sizeof(Elf64_Phdr);
  int refused = 0;
  for (size_t i = 0; i < headers; ++i) {
    for (const auto value : {std::byte{0xff}, std::byte{0x7f}, std::byte{0x00}}) {
      file[i] = value;
      try {
        read_elf_facts(file, "changed");
      } catch (const Error&) {
        ++refused;
      }
    }
    file[i] = whole[i];
  }
  CHECK(refused > 100);
}

TEST_CASE("a malformed dynamic section is refused") {
  constexpr auto kCode = ErrorCode::kPluginNotElf;
  check_refused(kCode, "not exactly one dynamic section", [](Bytes& file) {
    edit_segments(file, [](Elf64_Phdr& segment) {
      if (segment.p_type == PT_DYNAMIC) segment.p_type = PT_NULL;
    });
  });
  check_refused(kCode, "is in no segment", [](Bytes& file) {
    edit_dynamic(file, [](Elf64_Dyn& entry) {
      if (entry.d_tag == DT_STRTAB) entry.d_un.d_ptr = 0x7fff'ffff'0000;
    });
  });
  check_refused(kCode, "name of a needed library is missing", [](Bytes& file) {
    edit_dynamic(file, [](Elf64_Dyn& entry) {
      if (entry.d_tag == DT_NEEDED) entry.d_un.d_val = 1ull << 40;
    });
  });
  check_refused(kCode, "a dynamic section without an end", [](Bytes& file) {
    edit_dynamic(file, [](Elf64_Dyn& entry) {
      if (entry.d_tag == DT_NULL) entry.d_tag = DT_DEBUG;
    });
  });
}

TEST_CASE("malformed stamps are refused") {
  check_stamp_refused("gives its size as 8 bytes", [](auto& stamp) { stamp.stamp_size = 8; });
  check_stamp_refused("gives its size as 1000000 bytes",
                      [](auto& stamp) { stamp.stamp_size = 1000000; });
  check_stamp_refused("without an end", [](auto& stamp) {
    std::fill(std::begin(stamp.plugin_name), std::end(stamp.plugin_name), 'a');
  });
  check_stamp_refused("outside printable ASCII",
                      [](auto& stamp) { set_text(stamp.platform, "\x1b[31mred"); });
  check_stamp_refused("'../evil' is no plugin name",
                      [](auto& stamp) { set_text(stamp.plugin_name, "../evil"); });
  check_stamp_refused("'1.0' is no semantic version",
                      [](auto& stamp) { set_text(stamp.plugin_version, "1.0"); });
  check_stamp_refused("'probe,,x' is no list of mode names",
                      [](auto& stamp) { set_text(stamp.modes, "probe,,x"); });
  check_stamp_refused("names nothing that the plugin provides",
                      [](auto& stamp) { set_text(stamp.modes, ""); });
  check_stamp_refused("'a-b' is no list of architectures",
                      [](auto& stamp) { set_text(stamp.bases, "a-b"); });
  check_stamp_refused("'eagle' is no list of MODE/ARCHITECTURE",
                      [](auto& stamp) { set_text(stamp.draft_models, "eagle"); });
  check_stamp_refused("wrong magic bytes", [](auto& stamp) { stamp.magic[0] = 'X'; });
}

TEST_CASE("a stamp note with a wrong size is refused") {
  constexpr auto kCode = ErrorCode::kPluginBadStamp;
  check_refused(kCode, "it has 0 bytes", [](Bytes& file) { stamp_note(file).n_descsz = 0; });
  check_refused(kCode, "it gives its size as",
                [](Bytes& file) { stamp_note(file).n_descsz = sizeof(PluginStamp) - 1; });
  check_refused(kCode, "reaches beyond its segment",
                [](Bytes& file) { stamp_note(file).n_descsz = 0xffff'fff0; });
  check_refused(kCode, "reaches beyond its segment",
                [](Bytes& file) { stamp_note(file).n_namesz = 0xffff'fff0; });
}

TEST_CASE("a stamp that a newer SDK made longer is read as far as it is known") {
  auto file = read_bytes(built_plugin("probe"));
  const auto at = stamp_note_at(file);
  stamp_note(file).n_descsz += 64;
  edit_stamp(file, [](PluginStamp& stamp) { stamp.stamp_size += 64; });
  edit_segments(file, [&](Elf64_Phdr& segment) {
    const bool holds_stamp = segment.p_type == PT_NOTE && segment.p_offset <= at &&
                             at < segment.p_offset + segment.p_filesz;
    if (holds_stamp) segment.p_filesz = at + 24 + sizeof(PluginStamp) + 64 - segment.p_offset;
  });
  const auto facts = read_elf_facts(file, "newer");
  REQUIRE(facts.stamps.size() == 1);
  CHECK(std::string(facts.stamps.front().plugin_name) == "probe");
}

TEST_CASE("every reason why a plugin does not fit comes at once") {
  const auto host = host_stamp();
  auto plugin = host;
  plugin.sdk_abi += 1;
  plugin.torch_version = 2u << 16 | 10u << 8 | 1u;
  set_text(plugin.platform, "linux_riscv64_gnu");
  set_text(plugin.stdlib, "libc++");
  set_text(plugin.json_abi, "json_abi_diag_v3_12_0");
  plugin.flags ^= kStampCxx11Abi | kStampAddressSanitizer | kStampJsonDiagnostics;
  const auto problems = incompatibilities(plugin, host);
  REQUIRE(problems.size() == 8);
  const auto text = join(problems, "\n");
  const std::string host_abi = std::to_string(host.sdk_abi);
  for (const auto& part :
       {fmt::format("built for SDK ABI {}, this program for {}", host.sdk_abi + 1, host_abi),
        std::string("LibTorch 2.10.1, this program for 2.11.0"),
        fmt::format("the platform linux_riscv64_gnu, this program for {}", host.platform),
        std::string("the standard library libc++, this program for libstdc++"),
        fmt::format("JSON library's ABI json_abi_diag_v3_12_0, this program for {}", host.json_abi),
        std::string(
            "without the C++11 ABI of libstdc++ (_GLIBCXX_USE_CXX11_ABI), this program with"),
        std::string("AddressSanitizer"), std::string("JSON_DIAGNOSTICS")}) {
    CAPTURE(part);
    CHECK(text.find(part) != std::string::npos);
  }
}

TEST_CASE("CUDA code must be of LibTorch's CUDA version, unless there is none on one side") {
  auto host = host_stamp(), plugin = host;
  host.cuda_version = 13000;
  plugin.cuda_version = 12080;
  CHECK(join(incompatibilities(plugin, host), "") ==
        "the plugin was built for CUDA 12, this program's LibTorch for 13");
  plugin.cuda_version = 13010;
  CHECK(incompatibilities(plugin, host).empty());
  plugin.cuda_version = 0;
  CHECK(incompatibilities(plugin, host).empty());
  plugin.cuda_version = 12080;
  host.cuda_version = 0;
  CHECK(incompatibilities(plugin, host).empty());
}

TEST_CASE("a plugin may need LibTorch, core and the language's libraries alone") {
  ElfFacts facts;
  facts.is_nodelete = true;
  facts.needed = {"libtorch_cpu.so", "libcudart.so.13",     "libgomp-a34b3233.so.1",
                  "libc.so.6",       "liboutrider_core.so", "libc10_cuda.so"};
  CHECK(dependency_problems(facts).empty());
  facts.needed.push_back("libevil.so");
  facts.needed.push_back("/tmp/libcudart.so.13");
  facts.needed.push_back("libgomp/../x.so.1");
  facts.has_rpath = true;
  facts.is_nodelete = false;
  const auto problems = dependency_problems(facts);
  REQUIRE(problems.size() == 5);
  CHECK(problems[0] == "it needs the library libevil.so, which no plugin may bring in");
  CHECK(problems[1].find("/tmp/libcudart.so.13") != std::string::npos);
  CHECK(problems[2].find("libgomp/../x.so.1") != std::string::npos);
  CHECK(problems[3] == "it has a RPATH or RUNPATH");
  CHECK(problems[4] == "it was linked without -z nodelete");
}

}  // namespace
}  // namespace outrider
