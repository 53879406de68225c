#include "pickle_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <stdexcept>
#include <utility>

#include "byte_cursor.h"
#include "pickle_names.h"

namespace outrider::pickle {
namespace {

constexpr size_t kMostBytes = 16u << 20;
constexpr size_t kMostOnStack = 1u << 16;
constexpr size_t kLongestGlobal = 256;
constexpr size_t kMostSizes = 64;
constexpr uint8_t kProtocol = 2;

/// The stack machine of https://docs.python.org/3/library/pickletools.html, without those
/// instructions that could do anything but build plain data.
class Reader {
 public:
  Reader(std::span<const std::byte> bytes, const std::string& origin)
      : cursor_(bytes, origin), origin_(origin) {}

  Contents read() {
    try {
      read_protocol();
      while (step()) {
      }
      return finish();
    } catch (const std::length_error& error) {
      throw Error(ErrorCode::kInvalidFile, in_quotes(origin_) + ": its pickle " + error.what(),
                  "no checkpoint needs that many; the file is damaged or was made to do harm");
    } catch (const std::invalid_argument& error) {
      fail(std::string("holds ") + error.what());
    }
  }

 private:
  using Handler = void (Reader::*)();

  [[noreturn]] void fail(const std::string& reason) const {
    throw damaged(origin_, fmt::format("its pickle {} (byte {})", reason, cursor_.position()));
  }
  [[noreturn]] void refuse(const std::string& what) const {
    throw Error(ErrorCode::kUnsafeFile,
                fmt::format("{}: its pickle {}, which plain data and tensors do not need (byte {})",
                            in_quotes(origin_), what, cursor_.position()),
                "nothing of it was run; do not load this file with Python either unless you trust "
                "whoever made it");
  }

  void read_protocol() {
    if (cursor_.take<uint8_t>() != 0x80) fail("does not begin with its protocol");
    const auto protocol = cursor_.take<uint8_t>();
    if (protocol != kProtocol) {
      fail(fmt::format("has protocol {}; torch.save() writes {}", protocol, kProtocol));
    }
  }

  /// False at the end of the pickle.
  bool step() {
    const auto code = cursor_.take<uint8_t>();
    if (code == '.') return false;
    const auto handler = handler_of(code);
    if (handler == nullptr) refuse("has the instruction " + instruction_name(code));
    (this->*handler)();
    return true;
  }

  static Handler handler_of(uint8_t code) {
    static const auto handlers = [] {
      std::array<Handler, 256> table{};
      const std::pair<uint8_t, Handler> known[] = {{'N', &Reader::none},
                                                   {0x88, &Reader::true_value},
                                                   {0x89, &Reader::false_value},
                                                   {'K', &Reader::integer<uint8_t>},
                                                   {'M', &Reader::integer<uint16_t>},
                                                   {'J', &Reader::integer<int32_t>},
                                                   {0x8a, &Reader::long_integer},
                                                   {'G', &Reader::floating},
                                                   {'X', &Reader::text},
                                                   {'(', &Reader::mark},
                                                   {')', &Reader::tuple<0>},
                                                   {0x85, &Reader::tuple<1>},
                                                   {0x86, &Reader::tuple<2>},
                                                   {0x87, &Reader::tuple<3>},
                                                   {'t', &Reader::marked_tuple},
                                                   {']', &Reader::empty<NodeKind::kList>},
                                                   {'}', &Reader::empty<NodeKind::kDict>},
                                                   {'a', &Reader::append_one},
                                                   {'e', &Reader::append_marked},
                                                   {'s', &Reader::set_one},
                                                   {'u', &Reader::set_marked},
                                                   {'q', &Reader::remember<uint8_t>},
                                                   {'r', &Reader::remember<uint32_t>},
                                                   {'h', &Reader::recall<uint8_t>},
                                                   {'j', &Reader::recall<uint32_t>},
                                                   {'c', &Reader::global},
                                                   {'R', &Reader::reduce},
                                                   {'Q', &Reader::persistent},
                                                   {'b', &Reader::build}};
      for (const auto& [code, handler] : known) table[code] = handler;
      return table;
    }();
    return handlers[code];
  }

  // --- the stack -------------------------------------------------------------------------------

  void push(Value value) {
    heap_.charge(1);
    if (stack_.size() >= kMostOnStack) {
      throw std::length_error(fmt::format("stacks more than {} values", kMostOnStack));
    }
    stack_.push_back(value);
  }

  size_t floor() const { return marks_.empty() ? 0 : marks_.back(); }

  Value pop() {
    if (stack_.size() <= floor()) fail("takes more values than it has");
    const Value value = stack_.back();
    stack_.pop_back();
    return value;
  }

  template <class T>
  T pop(const char* expected) {
    const Value value = pop();
    if (const auto* found = std::get_if<T>(&value)) return *found;
    fail(std::string("has something else where it needs ") + expected);
  }

  /// The container below the values from `first` on, which they go into.
  NodeRef container_below(size_t first, bool is_dict) {
    const size_t bottom = floor();
    const auto* ref = first > bottom ? std::get_if<NodeRef>(&stack_[first - 1]) : nullptr;
    if (ref == nullptr) fail("adds to what is no container");
    const auto& node = heap_.node(*ref);
    const bool fits = is_dict ? node.kind == NodeKind::kDict || node.kind == NodeKind::kOrderedDict
                              : node.kind == NodeKind::kList;
    if (!fits) fail("adds to a container of another kind");
    if (node.is_shared) fail("adds to a container that is referred to already");
    return *ref;
  }

  void add_from(size_t first, bool is_dict) {
    const auto target = container_below(first, is_dict);
    if (is_dict && (stack_.size() - first) % 2 != 0) fail("sets a key without a value");
    for (size_t i = first; i < stack_.size(); ++i) heap_.append(target, stack_[i]);
    stack_.resize(first);
  }

  /// Where the values after the newest mark begin; the mark is gone.
  size_t take_mark() {
    if (marks_.empty()) fail("closes a mark that is not there");
    const size_t first = marks_.back();
    marks_.pop_back();
    return first;
  }

  void tuple_from(size_t first) {
    const auto tuple = heap_.add_node(NodeKind::kTuple);
    for (size_t i = first; i < stack_.size(); ++i) heap_.append(tuple, stack_[i]);
    stack_.resize(first);
    push(tuple);
  }

  static bool is_text(const Value& value, std::string_view expected) {
    const auto* text = std::get_if<std::string_view>(&value);
    return text != nullptr && *text == expected;
  }

  // --- instructions ----------------------------------------------------------------------------

  void none() { push({}); }
  void true_value() { push(true); }
  void false_value() { push(false); }

  template <class T>
  void integer() {
    push(int64_t{cursor_.take<T>()});
  }

  void long_integer() {
    const auto bytes = cursor_.take_bytes(cursor_.take<uint8_t>());
    if (bytes.size() > sizeof(int64_t)) fail("has an integer of more than 64 bits");
    uint64_t value = 0;
    for (size_t i = 0; i < bytes.size(); ++i) {
      value |= static_cast<uint64_t>(bytes[i]) << (8 * i);
    }
    const int unused = 64 - 8 * static_cast<int>(bytes.size());
    push(bytes.empty() ? int64_t{0} : static_cast<int64_t>(value << unused) >> unused);
  }

  void floating() {
    const auto value = std::bit_cast<double>(__builtin_bswap64(cursor_.take<uint64_t>()));
    if (!std::isfinite(value)) fail("has a number that is not finite");
    push(value);
  }

  void text() { push(cursor_.take_text(cursor_.take<uint32_t>())); }

  void mark() {
    if (marks_.size() >= kMostOnStack) {
      throw std::length_error(fmt::format("opens more than {} marks", kMostOnStack));
    }
    marks_.push_back(stack_.size());
  }

  template <NodeKind kind>
  void empty() {
    push(heap_.add_node(kind));
  }

  template <size_t count>
  void tuple() {
    if (stack_.size() < floor() + count) fail("takes more values than it has");
    tuple_from(stack_.size() - count);
  }

  void marked_tuple() { tuple_from(take_mark()); }

  void append_one() { add_last(1, /*is_dict=*/false); }
  void set_one() { add_last(2, /*is_dict=*/true); }
  void append_marked() { add_from(take_mark(), /*is_dict=*/false); }
  void set_marked() { add_from(take_mark(), /*is_dict=*/true); }

  void add_last(size_t count, bool is_dict) {
    if (stack_.size() < floor() + count) fail("takes more values than it has");
    add_from(stack_.size() - count, is_dict);
  }

  /// Numbers go up one by one, as Python's pickler gives them out.
  template <class Index>
  void remember() {
    const auto index = cursor_.take<Index>();
    if (index != memo_.size()) {
      fail(fmt::format("remembers value {} as number {}", memo_.size(), index));
    }
    if (stack_.size() <= floor()) fail("remembers nothing");
    heap_.charge(1);
    memo_.push_back(stack_.back());
  }

  template <class Index>
  void recall() {
    const auto index = cursor_.take<Index>();
    if (index >= memo_.size()) fail(fmt::format("recalls value {}, which it never had", index));
    if (const auto* ref = std::get_if<NodeRef>(&memo_[index])) heap_.node(*ref).is_shared = true;
    push(memo_[index]);
  }

  std::string_view line() {
    auto ahead = cursor_;
    for (size_t length = 0; length <= kLongestGlobal; ++length) {
      if (ahead.take<char>() != '\n') continue;
      const auto found = cursor_.take_text(length);
      cursor_.skip(1);
      return found;
    }
    fail("has a name of more than 256 bytes");
  }

  void global() {
    const auto module = line(), name = line();
    const auto found = find_global(module, name);
    if (!found) {
      refuse(fmt::format("asks for the Python object {}",
                         in_quotes(fmt::format("{}.{}", module, name), 300)));
    }
    push(*found);
  }

  void reduce() {
    const auto& arguments = heap_.node(pop<NodeRef>("arguments"));
    const auto callee = pop<GlobalRef>("a function");
    if (arguments.kind != NodeKind::kTuple) fail("calls something without a tuple of arguments");
    switch (callee.global) {
      case Global::kOrderedDict:
        if (!arguments.items.empty()) refuse("calls OrderedDict with arguments");
        return push(heap_.add_node(NodeKind::kOrderedDict));
      case Global::kRebuildTensor:
        return push(heap_.add_tensor(tensor_from(arguments.items)));
      case Global::kStorageType:
        refuse("calls a storage type");
    }
  }

  /// storage, offset, shape, strides, requires_grad, hooks.
  Tensor tensor_from(const std::vector<Value>& arguments) const {
    if (arguments.size() != 6) fail(fmt::format("makes a tensor of {} values", arguments.size()));
    const auto* storage = std::get_if<StorageRef>(&arguments[0]);
    const auto* offset = std::get_if<int64_t>(&arguments[1]);
    if (storage == nullptr || offset == nullptr) fail("makes a tensor without storage or offset");
    return {heap_.storage(*storage), *offset, sizes_from(arguments[2]), sizes_from(arguments[3])};
  }

  std::vector<int64_t> sizes_from(const Value& value) const {
    const auto* ref = std::get_if<NodeRef>(&value);
    const auto* node = ref ? &heap_.node(*ref) : nullptr;
    if (node == nullptr || node->kind != NodeKind::kTuple || node->items.size() > kMostSizes) {
      fail(fmt::format("has a shape that is no tuple of at most {} sizes", kMostSizes));
    }
    std::vector<int64_t> sizes;
    for (const auto& item : node->items) {
      const auto* size = std::get_if<int64_t>(&item);
      if (size == nullptr) fail("has a shape with something else than integers");
      sizes.push_back(*size);
    }
    return sizes;
  }

  /// ("storage", type, key, device, elements): a reference to another entry of the file.
  void persistent() {
    const auto& node = heap_.node(pop<NodeRef>("a reference to a storage"));
    const bool fits = node.kind == NodeKind::kTuple && node.items.size() == 5 &&
                      is_text(node.items[0], "storage");
    if (!fits) fail("has a malformed reference to a storage");
    const auto* type = std::get_if<GlobalRef>(&node.items[1]);
    const auto* key = std::get_if<std::string_view>(&node.items[2]);
    const auto* count = std::get_if<int64_t>(&node.items[4]);
    if (type == nullptr || type->global != Global::kStorageType || key == nullptr ||
        count == nullptr) {
      fail("has a malformed reference to a storage");
    }
    push(heap_.add_storage({type->dtype, *key, *count}));
  }

  /// A state dict carries the versions of its modules as an attribute, which nothing needs.
  void build() {
    const auto& state = heap_.node(pop<NodeRef>("attributes"));
    const auto* ref = stack_.size() > floor() ? std::get_if<NodeRef>(&stack_.back()) : nullptr;
    const bool fits = ref != nullptr && heap_.node(*ref).kind == NodeKind::kOrderedDict &&
                      state.kind == NodeKind::kDict && state.items.size() == 2 &&
                      is_text(state.items[0], "_metadata");
    if (!fits) refuse("sets attributes of an object");
  }

  Contents finish() {
    if (cursor_.left() != 0) fail("goes on after its end");
    if (!marks_.empty() || stack_.size() != 1) fail("does not end with one value");
    return {heap_.to_json(stack_.front()), heap_.take_tensors()};
  }

  ByteCursor cursor_;
  const std::string& origin_;
  Heap heap_;
  std::vector<Value> stack_, memo_;
  std::vector<size_t> marks_;
};

}  // namespace

Contents read(std::span<const std::byte> bytes, const std::string& origin) {
  if (bytes.size() > kMostBytes) {
    throw damaged(origin, fmt::format("its pickle takes {} bytes; at most {} are accepted",
                                      bytes.size(), kMostBytes));
  }
  return Reader(bytes, origin).read();
}

}  // namespace outrider::pickle
