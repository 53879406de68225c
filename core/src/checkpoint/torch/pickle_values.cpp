#include "pickle_values.h"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "outrider/text.h"

namespace outrider::pickle {
namespace {

constexpr size_t kBytesPerWeight = 8;
constexpr uint32_t kTensorWeight = 4;

template <class... Ts>
struct Overloaded : Ts... {
  using Ts::operator()...;
};
template <class... Ts>
Overloaded(Ts...) -> Overloaded<Ts...>;  // clang 14 does not derive it

std::string text_from(std::string_view text) {
  if (!is_utf8(text)) throw std::invalid_argument("a text that is not UTF-8");
  return std::string(text);
}

}  // namespace

void Heap::charge(size_t values) {
  charged_ += values;
  if (charged_ > kMostValues) {
    throw std::length_error(fmt::format("holds more than {} values", kMostValues));
  }
}

NodeRef Heap::add_node(NodeKind kind) {
  if (nodes_.size() >= kMostNodes) {
    throw std::length_error(fmt::format("holds more than {} containers", kMostNodes));
  }
  nodes_.push_back({kind});
  return {static_cast<uint32_t>(nodes_.size() - 1)};
}

StorageRef Heap::add_storage(Storage storage) {
  charge(2);
  storages_.push_back(storage);
  return {static_cast<uint32_t>(storages_.size() - 1)};
}

TensorRef Heap::add_tensor(Tensor tensor) {
  charge(8 + tensor.shape.size() + tensor.strides.size());
  tensors_.push_back(std::move(tensor));
  return {static_cast<uint32_t>(tensors_.size() - 1)};
}

uint32_t Heap::weight_of(const Value& value) const {
  if (const auto* ref = std::get_if<NodeRef>(&value)) return node(*ref).weight;
  if (std::holds_alternative<TensorRef>(value)) return kTensorWeight;
  const auto* text = std::get_if<std::string_view>(&value);
  return 1 + (text ? static_cast<uint32_t>(text->size() / kBytesPerWeight) : 0);
}

void Heap::append(NodeRef container, const Value& value) {
  charge(1);
  auto& target = node(container);
  target.weight += weight_of(value);
  if (target.weight > kMostWeight) {
    throw std::length_error(fmt::format("unfolds to more than {} values", kMostWeight));
  }
  if (const auto* ref = std::get_if<NodeRef>(&value)) {
    target.depth = std::max<uint16_t>(target.depth, node(*ref).depth + 1);
    if (target.depth > kMostDepth) {
      throw std::length_error(fmt::format("is nested deeper than {} levels", kMostDepth));
    }
  }
  target.items.push_back(value);
}

Json Heap::list_to_json(const Node& node) const {
  Json list = Json::array();
  for (const auto& item : node.items) list.push_back(to_json(item));
  return list;
}

Json Heap::dict_to_json(const Node& node) const {
  Json dict = Json::object();
  for (size_t i = 0; i + 1 < node.items.size(); i += 2) {
    const auto* key = std::get_if<std::string_view>(&node.items[i]);
    if (key == nullptr) throw std::invalid_argument("a dict whose keys are not all texts");
    if (dict.contains(*key)) {
      throw std::invalid_argument("the key " + in_quotes(*key, 100) + " twice in one dict");
    }
    dict[text_from(*key)] = to_json(node.items[i + 1]);
  }
  return dict;
}

Json Heap::to_json(const Value& value) const {
  const Overloaded convert{
      [](std::monostate) { return Json(); },
      [](std::string_view text) { return Json(text_from(text)); },
      [](GlobalRef) -> Json { throw std::invalid_argument("a type in the place of a value"); },
      [](StorageRef) -> Json { throw std::invalid_argument("a storage that is no tensor"); },
      [](TensorRef tensor) { return Json::binary({}, tensor.index); },
      [this](NodeRef ref) {
        const auto& found = node(ref);
        const bool is_list = found.kind == NodeKind::kList || found.kind == NodeKind::kTuple;
        return is_list ? list_to_json(found) : dict_to_json(found);
      },
      [](auto number) { return Json(number); }};
  return std::visit(convert, value);
}

}  // namespace outrider::pickle
