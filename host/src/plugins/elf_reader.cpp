#include <elf.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <optional>

#include "outrider/error.h"
#include "outrider/host/plugin_file.h"
#include "outrider/text.h"
#include "plugins/stamp_text.h"

namespace outrider {
namespace {

// Far above what linkers write; they bound the work that a made-up file can cause.
constexpr size_t kMaxSegments = 128;
constexpr size_t kMaxNoteBytes = 1u << 20;
constexpr size_t kMaxDynamicEntries = 4096;
constexpr size_t kMaxNameBytes = 4096;
constexpr size_t kMaxSymbols = 1u << 16;

#if defined(__x86_64__)
constexpr Elf64_Half kMachine = EM_X86_64;
constexpr const char* kMachineName = "x86-64";
#elif defined(__aarch64__)
constexpr Elf64_Half kMachine = EM_AARCH64;
constexpr const char* kMachineName = "aarch64";
#endif

/// The hash of a name in DT_GNU_HASH.
uint32_t gnu_hash(std::string_view name) {
  uint32_t hash = 5381;
  for (const char c : name) hash = hash * 33 + static_cast<unsigned char>(c);
  return hash;
}

size_t aligned_up(size_t value, size_t alignment) {
  return (value + alignment - 1) / alignment * alignment;
}

class ElfReader {
 public:
  ElfReader(std::span<const std::byte> file, const std::string& origin)
      : file_(file), origin_(origin) {}

  ElfFacts read() {
    read_segments(read_header());
    ElfFacts facts;
    for (const auto& segment : segments_) {
      if (segment.p_type == PT_NOTE) read_notes(segment, facts);
    }
    read_dynamic(facts);
    return facts;
  }

 private:
  [[noreturn]] void fail(const std::string& what, ErrorCode code = ErrorCode::kPluginNotElf) const {
    throw Error(code, fmt::format("{}: {}", printable(origin_), what),
                "build the plugin with outrider_add_plugin(), and copy it whole");
  }

  std::span<const std::byte> bytes(uint64_t offset, uint64_t size) const {
    if (offset > file_.size() || size > file_.size() - offset) {
      fail(fmt::format("truncated: {} bytes at {} lie beyond the end of the file, which has {}",
                       size, offset, file_.size()));
    }
    return file_.subspan(offset, size);
  }

  template <class T>
  T value_at(uint64_t offset) const {
    T value;
    std::memcpy(&value, bytes(offset, sizeof(T)).data(), sizeof(T));
    return value;
  }

  Elf64_Ehdr read_header() const {
    if (file_.size() < SELFMAG || std::memcmp(file_.data(), ELFMAG, SELFMAG) != 0) {
      fail("not a shared library (no ELF header)");
    }
    const auto header = value_at<Elf64_Ehdr>(0);
    if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_ident[EI_DATA] != ELFDATA2LSB ||
        header.e_machine != kMachine) {
      fail(
          fmt::format("built for another machine (class {}, machine {}); this program needs 64-bit "
                      "little-endian {}",
                      header.e_ident[EI_CLASS], header.e_machine, kMachineName));
    }
    if (header.e_type != ET_DYN) fail("an ELF file, but no shared library");
    if (header.e_phentsize != sizeof(Elf64_Phdr) || header.e_phnum > kMaxSegments) {
      fail(fmt::format("malformed program header table ({} entries of {} bytes)", header.e_phnum,
                       header.e_phentsize));
    }
    return header;
  }

  void read_segments(const Elf64_Ehdr& header) {
    bytes(header.e_phoff, uint64_t{header.e_phnum} * sizeof(Elf64_Phdr));
    for (size_t i = 0; i < header.e_phnum; ++i) {
      segments_.push_back(value_at<Elf64_Phdr>(header.e_phoff + i * sizeof(Elf64_Phdr)));
      if (segments_.back().p_type == PT_LOAD) {
        bytes(segments_.back().p_offset, segments_.back().p_filesz);
      }
    }
  }

  void read_notes(const Elf64_Phdr& segment, ElfFacts& facts) const {
    const auto notes = bytes(segment.p_offset, segment.p_filesz);
    if (notes.size() > kMaxNoteBytes) {
      fail(fmt::format("a note segment of {} bytes; at most {} are read", notes.size(),
                       kMaxNoteBytes));
    }
    const size_t alignment = segment.p_align == 8 ? 8 : 4;
    for (size_t at = 0; at + sizeof(Elf64_Nhdr) <= notes.size();) {
      at = read_note(notes, at, alignment, facts);
    }
  }

  /// The position after the note at `at`.
  size_t read_note(std::span<const std::byte> notes, size_t at, size_t alignment,
                   ElfFacts& facts) const {
    Elf64_Nhdr note;
    std::memcpy(&note, &notes[at], sizeof(note));
    const size_t name_at = at + sizeof(note);
    const size_t content_at = at + aligned_up(sizeof(note) + note.n_namesz, alignment);
    if (content_at > notes.size() || note.n_descsz > notes.size() - content_at) {
      fail("a note reaches beyond its segment", ErrorCode::kPluginBadStamp);
    }
    if (note.n_type == kStampNoteType && note.n_namesz == sizeof(kStampNoteName) &&
        std::memcmp(&notes[name_at], kStampNoteName, sizeof(kStampNoteName)) == 0) {
      facts.stamps.push_back(parse_stamp(notes.subspan(content_at, note.n_descsz), origin_));
    }
    return content_at + aligned_up(note.n_descsz, alignment);
  }

  /// Where the file holds what the loader will see at `address`.
  uint64_t offset_of(uint64_t address, uint64_t size) const {
    std::optional<uint64_t> found;
    for (const auto& segment : segments_) {
      const auto within = address - segment.p_vaddr;
      if (segment.p_type != PT_LOAD || address < segment.p_vaddr || within >= segment.p_filesz) {
        continue;
      }
      if (found || size > segment.p_filesz - within) fail("overlapping or cut-off segments");
      found = segment.p_offset + within;
    }
    if (!found) fail(fmt::format("address {:#x} is in no segment of the file", address));
    return *found;
  }

  const Elf64_Phdr& dynamic_segment() const {
    const auto is_dynamic = [](const Elf64_Phdr& segment) { return segment.p_type == PT_DYNAMIC; };
    if (std::count_if(segments_.begin(), segments_.end(), is_dynamic) != 1) {
      fail("not exactly one dynamic section");
    }
    return *std::find_if(segments_.begin(), segments_.end(), is_dynamic);
  }

  std::vector<Elf64_Dyn> dynamic_entries() const {
    const auto& segment = dynamic_segment();
    const auto count = segment.p_filesz / sizeof(Elf64_Dyn);
    if (count > kMaxDynamicEntries) fail(fmt::format("a dynamic section of {} entries", count));
    const auto offset = offset_of(segment.p_vaddr, segment.p_filesz);
    std::vector<Elf64_Dyn> entries;
    for (size_t i = 0; i < count; ++i) {
      entries.push_back(value_at<Elf64_Dyn>(offset + i * sizeof(Elf64_Dyn)));
      if (entries.back().d_tag == DT_NULL) return entries;
    }
    fail("a dynamic section without an end");
  }

  /// The last one counts, as for the dynamic linker.
  static std::optional<uint64_t> dynamic_value(const std::vector<Elf64_Dyn>& entries,
                                               Elf64_Sxword tag) {
    std::optional<uint64_t> value;
    for (const auto& entry : entries) {
      if (entry.d_tag == tag) value = entry.d_un.d_val;
    }
    return value;
  }

  std::span<const std::byte> string_table(const std::vector<Elf64_Dyn>& entries) const {
    const auto address = dynamic_value(entries, DT_STRTAB).value_or(0);
    const auto size = dynamic_value(entries, DT_STRSZ).value_or(0);
    return bytes(offset_of(address, size), size);
  }

  std::string text_at(std::span<const std::byte> table, uint64_t offset) const {
    if (offset >= table.size()) fail("a name in its dynamic section is missing");
    const auto rest = table.subspan(offset, std::min(table.size() - offset, kMaxNameBytes));
    const auto end = std::find(rest.begin(), rest.end(), std::byte{0});
    if (end == rest.end()) fail("a name in its dynamic section has no end");
    return {reinterpret_cast<const char*>(rest.data()), static_cast<size_t>(end - rest.begin())};
  }

  void read_dynamic(ElfFacts& facts) const {
    const auto entries = dynamic_entries();
    const auto strings = string_table(entries);
    for (const auto& [tag, value] : entries) {
      // Filters and auxiliary libraries are opened as the needed ones are.
      if (tag == DT_NEEDED || tag == DT_FILTER || tag == DT_AUXILIARY) {
        facts.needed.push_back(text_at(strings, value.d_val));
      }
      if (tag == DT_RPATH || tag == DT_RUNPATH) facts.has_rpath = true;
      if (tag == DT_FLAGS_1) facts.is_nodelete = (value.d_val & DF_1_NODELETE) != 0;
    }
    if (const auto symbols = dynamic_value(entries, DT_SYMTAB)) {
      facts.has_entry = defines_entry(entries, *symbols, strings);
    }
  }

  template <class T>
  T value_in_memory(uint64_t address) const {
    return value_at<T>(offset_of(address, sizeof(T)));
  }

  /// Looked up as dlsym() does: through the GNU hash table, or the older one where there is no
  /// such.
  bool defines_entry(const std::vector<Elf64_Dyn>& entries, uint64_t symbols,
                     std::span<const std::byte> strings) const {
    const auto is_entry = [&](uint64_t index) {
      const auto symbol = value_in_memory<Elf64_Sym>(symbols + index * sizeof(Elf64_Sym));
      return symbol.st_shndx != SHN_UNDEF && text_at(strings, symbol.st_name) == kEntrySymbol;
    };
    if (const auto table = dynamic_value(entries, DT_GNU_HASH)) {
      return is_in_gnu_table(*table, is_entry);
    }
    const auto table = dynamic_value(entries, DT_HASH);
    return table && is_in_table(*table, is_entry);
  }

  template <class IsEntry>
  bool is_in_gnu_table(uint64_t table, IsEntry is_entry) const {
    const auto bucket_count = value_in_memory<uint32_t>(table);
    const auto first_symbol = value_in_memory<uint32_t>(table + 4);
    const auto filter_words = value_in_memory<uint32_t>(table + 8);
    if (bucket_count == 0) return false;
    const uint64_t buckets = table + 16 + uint64_t{filter_words} * 8;
    const uint64_t hashes = buckets + uint64_t{bucket_count} * 4;
    const auto wanted = gnu_hash(kEntrySymbol);
    uint64_t index = value_in_memory<uint32_t>(buckets + uint64_t{wanted % bucket_count} * 4);
    if (index < first_symbol) return false;
    for (size_t i = 0; i < kMaxSymbols; ++i, ++index) {
      const auto hash = value_in_memory<uint32_t>(hashes + (index - first_symbol) * 4);
      if ((hash | 1) == (wanted | 1) && is_entry(index)) return true;
      if (hash & 1) return false;
    }
    fail("a symbol table without an end");
  }

  template <class IsEntry>
  bool is_in_table(uint64_t table, IsEntry is_entry) const {
    const auto count = value_in_memory<uint32_t>(table + 4);
    if (count > kMaxSymbols) fail(fmt::format("a symbol table of {} entries", count));
    for (uint64_t index = 1; index < count; ++index) {
      if (is_entry(index)) return true;
    }
    return false;
  }

  std::span<const std::byte> file_;
  const std::string& origin_;
  std::vector<Elf64_Phdr> segments_;
};

}  // namespace

ElfFacts read_elf_facts(std::span<const std::byte> file, const std::string& origin) {
  return ElfReader(file, origin).read();
}

}  // namespace outrider
