#include "pickle_names.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace outrider::pickle {
namespace {

struct KnownGlobal {
  std::string_view module, name;
  GlobalRef ref;
};

constexpr KnownGlobal kGlobals[] = {
    {"collections", "OrderedDict", {Global::kOrderedDict, {}}},
    {"torch._utils", "_rebuild_tensor_v2", {Global::kRebuildTensor, {}}},
    {"torch", "FloatStorage", {Global::kStorageType, "F32"}},
    {"torch", "BFloat16Storage", {Global::kStorageType, "BF16"}},
    {"torch", "HalfStorage", {Global::kStorageType, "F16"}},
    {"torch", "DoubleStorage", {Global::kStorageType, "F64"}},
    {"torch", "LongStorage", {Global::kStorageType, "I64"}},
    {"torch", "IntStorage", {Global::kStorageType, "I32"}},
    {"torch", "ShortStorage", {Global::kStorageType, "I16"}},
    {"torch", "CharStorage", {Global::kStorageType, "I8"}},
    {"torch", "ByteStorage", {Global::kStorageType, "U8"}},
    {"torch", "BoolStorage", {Global::kStorageType, "BOOL"}}};

// Instructions with a name; the rest have their number only.
constexpr std::pair<uint8_t, const char*> kInstructions[] = {
    {'i', "INST"},          {'o', "OBJ"},
    {'P', "PERSID"},        {0x81, "NEWOBJ"},
    {0x82, "EXT1"},         {0x83, "EXT2"},
    {0x84, "EXT4"},         {0x92, "NEWOBJ_EX"},
    {0x93, "STACK_GLOBAL"}, {0x97, "NEXT_BUFFER"},
    {'0', "POP"},           {'1', "POP_MARK"},
    {'2', "DUP"},           {0x8b, "LONG4"},
    {0x95, "FRAME"},        {0x94, "MEMOIZE"},
    {'B', "BINBYTES"},      {'C', "SHORT_BINBYTES"},
    {0x8f, "EMPTY_SET"},    {'I', "INT"},
    {'L', "LONG"},          {'F', "FLOAT"},
    {'S', "STRING"},        {'V', "UNICODE"},
    {'T', "BINSTRING"},     {'U', "SHORT_BINSTRING"},
    {'d', "DICT"},          {'l', "LIST"},
    {'p', "PUT"},           {'g', "GET"}};

}  // namespace

std::optional<GlobalRef> find_global(std::string_view module, std::string_view name) {
  for (const auto& known : kGlobals) {
    if (known.module == module && known.name == name) return known.ref;
  }
  return std::nullopt;
}

std::string_view storage_class(std::string_view dtype) {
  for (const auto& known : kGlobals) {
    if (known.ref.global == Global::kStorageType && known.ref.dtype == dtype) return known.name;
  }
  return {};
}

std::string instruction_name(uint8_t code) {
  const auto* found = std::find_if(std::begin(kInstructions), std::end(kInstructions),
                                   [code](const auto& item) { return item.first == code; });
  const bool is_named = found != std::end(kInstructions);
  return fmt::format("{:#04x}{}", code, is_named ? fmt::format(" ({})", found->second) : "");
}

}  // namespace outrider::pickle
