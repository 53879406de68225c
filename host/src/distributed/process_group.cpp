#include "distributed/process_group.h"

#include <ATen/ATen.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <fmt/format.h>

#include <chrono>
#include <thread>
#include <utility>

#include "first_line.h"
#include "outrider/error.h"
#include "outrider/json.h"
#include "outrider/text.h"

namespace outrider {
namespace {

constexpr auto kFarewell = std::chrono::milliseconds(500);

}  // namespace

ProcessGroup::ProcessGroup(const ProcessPlace& place) {
  try {
    rendezvous_ = std::make_unique<Rendezvous>(place);
    control_ = std::make_unique<Communicator>(*rendezvous_, "control",
                                              ProcessRange{0, place.world_size}, at::kCPU);
    gather("here");  // one that ends at once would break connections that others still make
  } catch (const std::exception& e) {
    throw Error(ErrorCode::kProcessLost,
                fmt::format("process {} of {} does not find the others at {}:{}: {}", place.rank,
                            place.world_size, printable(place.address), place.port,
                            printable(first_line(e.what()), 300)),
                "start as many processes as WORLD_SIZE says, within half a minute: torchrun does");
  }
}

ProcessGroup::~ProcessGroup() = default;

void ProcessGroup::use_device(at::Device device) {
  device_ = device;
  if (device.is_cpu()) return;
  c10::impl::VirtualGuardImpl(device.type()).setDevice(device);
  tensors_ =
      std::make_unique<Communicator>(*rendezvous_, "device", ProcessRange{0, size()}, device);
}

Communicator& ProcessGroup::tensors_on(at::Device device) {
  return device.is_cpu() || !tensors_ ? *control_ : *tensors_;
}

std::unique_ptr<Communicator> ProcessGroup::subgroup(const std::string& name, ProcessRange range) {
  return std::make_unique<Communicator>(*rendezvous_, fmt::format("{}/{}", name, range.first),
                                        range, device_);
}

void ProcessGroup::sum_in_place(std::vector<at::Tensor> tensors) {
  const at::NoGradGuard no_grad;
  if (tensors.empty()) return;
  auto& group = tensors_on(tensors.front().device());
  group.begin_sum(std::move(tensors))();
}

at::Tensor ProcessGroup::sum(const at::Tensor& tensor) {
  auto result = tensor.detach().clone();
  sum_in_place({result});
  return result;
}

bool ProcessGroup::any(bool value) {
  return sum(at::full({1}, value ? 1.0 : 0.0, at::kDouble)).item<double>() > 0;
}

double ProcessGroup::of_first(double value) {
  return sum(at::full({1}, is_first() ? value : 0.0, at::kDouble)).item<double>();
}

std::vector<std::string> ProcessGroup::gather(const std::string& text) {
  const auto key = [round = round_++](int64_t rank) { return fmt::format("{}/{}", round, rank); };
  rendezvous_->set(key(rank()), text);
  std::vector<std::string> texts;
  for (int64_t i = 0; i < size(); ++i) texts.push_back(rendezvous_->await(key(i), i));
  return texts;
}

std::string ProcessGroup::from_first(const std::function<std::string()>& work) {
  any(false);  // all have read what was said the last time
  const auto key = [](int64_t round) { return fmt::format("first/{}", round); };
  const auto round = round_++;
  if (!is_first()) {
    const auto answer = Json::parse(rendezvous_->await(key(round), 0));
    if (!answer.contains("error")) return answer.at("value").get<std::string>();
    throw Error(static_cast<ErrorCode>(answer.at("code").get<int>()),
                answer.at("error").get<std::string>(), answer.at("hint").get<std::string>());
  }
  try {
    auto value = work();
    rendezvous_->remove(key(round - 1));
    rendezvous_->set(key(round), Json({{"value", value}}).dump());
    return value;
  } catch (const Error& e) {
    rendezvous_->set(
        key(round),
        Json({{"error", e.what()}, {"code", static_cast<int>(e.code())}, {"hint", e.hint()}})
            .dump());
    throw;
  }
}

void ProcessGroup::leave() {
  any(false);
  rendezvous_->stop_watching();
}

void ProcessGroup::report_failure(const std::string& reason) noexcept {
  try {
    rendezvous_->report_failure(reason);
    // The store may be this process's, and the others are about to read it.
    if (is_first() && !rendezvous_->place().launcher_serves) {
      std::this_thread::sleep_for(kFarewell);
    }
  } catch (const std::exception&) {
    // The others notice that this process is gone.
  }
}

}  // namespace outrider
