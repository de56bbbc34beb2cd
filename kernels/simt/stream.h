// Streams of the emulated device, as late as CUDA allows: what is put into one runs when somebody
// waits for it, and not before. A host that reads a result too early, or writes over memory that a
// copy has yet to read, gets what a GPU gives it on a bad day, every time.
#pragma once

#include <cstddef>
#include <functional>
#include <mutex>
#include <vector>

namespace sluice::simt {

// Any thread.
class EmulatedStream {
 public:
  using Work = std::function<void()>;

  void put(Work);
  // How many pieces of work were put in; what an event of now stands for.
  size_t mark() const;
  // Runs the work up to a mark, on the calling thread.
  void run_until(size_t mark);

  // Work put in until end_capture() is not for running: it is handed over there.
  void begin_capture();
  bool capturing() const;
  std::vector<Work> end_capture();

 private:
  // One for all streams, as they wait for each other.
  static std::recursive_mutex& mutex();

  std::vector<Work> work_;  // not yet run
  size_t num_run_ = 0;
  bool capturing_ = false;
  std::vector<Work> captured_;
};

}  // namespace sluice::simt
