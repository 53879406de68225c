#include "small_plugin.h"

#include <elf.h>

#include <cstddef>
#include <cstring>

namespace outrider::testing {
namespace {

#if defined(__aarch64__)
constexpr Elf64_Half kMachine = EM_AARCH64;
#else
constexpr Elf64_Half kMachine = EM_X86_64;
#endif

struct Note {
  Elf64_Nhdr header{sizeof(kStampNoteName), sizeof(PluginStamp), kStampNoteType};
  char name[12] = "Outrider";
  PluginStamp stamp{};
};

struct Texts {
  char none[1] = {};
  char library[10] = "libc.so.6";
  char entry[sizeof(kEntrySymbol)] = {};
};

/// Loaded whole, so that addresses are offsets in the file.
struct Image {
  Elf64_Ehdr header{};
  Elf64_Phdr segments[3]{};
  Elf64_Dyn dynamic[7]{};
  Elf64_Sym symbols[2]{};
  uint32_t hashes[6] = {1, 2, 1, 0, 0, 0};  // one bucket, two symbols, its first is symbol 1
  Note note;
  Texts texts;
};

Elf64_Phdr segment(Elf64_Word type, size_t offset, size_t size) {
  Elf64_Phdr header{};
  header.p_type = type;
  header.p_flags = PF_R;
  header.p_offset = header.p_vaddr = header.p_paddr = offset;
  header.p_filesz = header.p_memsz = size;
  header.p_align = 8;
  return header;
}

void write_header(Elf64_Ehdr& header) {
  std::memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_ident[EI_CLASS] = ELFCLASS64;
  header.e_ident[EI_DATA] = ELFDATA2LSB;
  header.e_ident[EI_VERSION] = header.e_version = EV_CURRENT;
  header.e_type = ET_DYN;
  header.e_machine = kMachine;
  header.e_ehsize = sizeof(Elf64_Ehdr);
  header.e_phoff = offsetof(Image, segments);
  header.e_phentsize = sizeof(Elf64_Phdr);
  header.e_phnum = 3;
}

void write_dynamic(Image& image) {
  const Elf64_Dyn entries[] = {{DT_NEEDED, {offsetof(Texts, library)}},
                               {DT_STRTAB, {offsetof(Image, texts)}},
                               {DT_STRSZ, {sizeof(Texts)}},
                               {DT_SYMTAB, {offsetof(Image, symbols)}},
                               {DT_HASH, {offsetof(Image, hashes)}},
                               {DT_FLAGS_1, {DF_1_NOW | DF_1_NODELETE}},
                               {DT_NULL, {0}}};
  static_assert(sizeof(entries) == sizeof(image.dynamic));
  std::memcpy(image.dynamic, entries, sizeof(entries));
  image.symbols[1].st_name = offsetof(Texts, entry);
  image.symbols[1].st_info = ELF64_ST_INFO(STB_GLOBAL, STT_FUNC);
  image.symbols[1].st_shndx = 1;
}

}  // namespace

std::string small_plugin(const PluginStamp& stamp, const std::string& extra) {
  Image image;
  write_header(image.header);
  image.segments[0] = segment(PT_LOAD, 0, sizeof(Image));
  image.segments[1] = segment(PT_NOTE, offsetof(Image, note), sizeof(Note));
  image.segments[1].p_align = 4;
  image.segments[2] = segment(PT_DYNAMIC, offsetof(Image, dynamic), sizeof(image.dynamic));
  write_dynamic(image);
  image.note.stamp = stamp;
  std::memcpy(image.texts.entry, kEntrySymbol, sizeof(kEntrySymbol));
  return std::string(reinterpret_cast<const char*>(&image), sizeof(image)) + extra;
}

}  // namespace outrider::testing
