#pragma once

#include <c10/util/intrusive_ptr.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "distributed/process_place.h"

namespace c10d {
class Store;
}

namespace outrider {

/// Where processes meet: texts by key, and the news whether all still live. While it exists, a
/// thread says in the store that this process does, and watches the next one's word.
class Rendezvous {
 public:
  /// Throws what the network throws.
  explicit Rendezvous(const ProcessPlace& place);
  ~Rendezvous();
  Rendezvous(const Rendezvous&) = delete;
  Rendezvous& operator=(const Rendezvous&) = delete;

  const ProcessPlace& place() const { return place_; }
  c10::intrusive_ptr<c10d::Store> store(const std::string& prefix) const;

  void set(const std::string& key, const std::string& text);
  void remove(const std::string& key);
  /// What process `rank` sets, however long it takes while it lives.
  std::string await(const std::string& key, int64_t rank);

  /// Errors of the network in `work` as kProcessLost, with what another process said before it
  /// ended. Throws it too where a process is known to be lost.
  void guarded(const std::function<void()>& work);
  /// `abort` is called, in another thread, once a process is lost: it ends what waits for that one.
  void when_lost(std::function<void()> abort);
  /// The others may end from here on.
  void stop_watching();

  /// Tells the others why this process ends.
  void report_failure(const std::string& reason);

 private:
  class Watch;

  void require_all() const;
  void wait_for(const std::string& key, int64_t rank);

  ProcessPlace place_;
  c10::intrusive_ptr<c10d::Store> store_;
  std::unique_ptr<Watch> watch_;
};

}  // namespace outrider
