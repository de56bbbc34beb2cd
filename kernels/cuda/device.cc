#include "kernels/cuda/device.h"

#include <array>
#include <mutex>
#include <utility>

#include "base/status.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/launch.h"

namespace sluice::cuda {
namespace {

// A captured step that says so when it is asked for again.
class TracedGraph final : public Graph {
 public:
  TracedGraph(std::unique_ptr<Graph> graph, StepTrace& trace, const StepTrace::Ops& ops)
      : graph_(std::move(graph)), trace_(trace), ops_(ops) {}
  void replay(Stream stream) override {
    trace_.replay(ops_);
    graph_->replay(stream);
  }
  int num_nodes() const override { return graph_->num_nodes(); }

 private:
  const std::unique_ptr<Graph> graph_;
  StepTrace& trace_;
  const StepTrace::Ops ops_;
};

class CudaDevice final : public Device {
 public:
  CudaDevice(std::unique_ptr<Runtime> runtime, DType act, bool batch_invariant, PlanCache plans,
             bool overlap_kernels)
      : runtime_(std::move(runtime)),
        compute_{runtime_->make_stream().handle, overlap_kernels && can_overlap()},
        copies_(runtime_->make_stream()),
        ops_(*runtime_, compute_, act, batch_invariant, std::move(plans)) {
    for (Event& e : events_) e = runtime_->make_event();
  }

  std::string name() const override {
    return fmt::format("cuda ({}, {})", runtime_->info().name, sluice::name_of(ops_.act_dtype()));
  }
  Buffer allocate(size_t bytes, Memory kind) override {
    return cuda::allocate(*runtime_, bytes, kind);
  }
  size_t free_bytes() const override { return runtime_->free_bytes(); }
  size_t total_bytes() const override { return runtime_->info().memory_bytes; }
  bool is_host() const override { return false; }
  void on_failure(std::function<void()> f) override { runtime_->on_failure(std::move(f)); }
  Ops& ops() override { return ops_; }

  Stream compute_stream() override { return compute_; }
  Stream copy_stream() override { return copies_; }
  void copy(void* dst, const void* src, size_t bytes, Stream stream) override {
    runtime_->copy(dst, src, bytes, stream);
  }
  Event record(Stream stream) override {
    std::lock_guard lock(mutex_);
    const Event event = events_[next_++ % events_.size()];
    runtime_->record(event, stream);
    return event;
  }
  void wait(Stream stream, Event event) override { runtime_->wait(stream, event); }
  void sync(Event event) override { runtime_->sync(event); }
  Nanos between(Event begin, Event end) override { return runtime_->between(begin, end); }
  std::unique_ptr<Graph> capture(Stream stream, const std::function<void()>& body) override {
    ops_.trace().begin_capture();
    std::unique_ptr<Graph> graph = runtime_->capture(stream, body);
    const StepTrace::Ops ops = ops_.trace().end_capture();
    if (graph == nullptr) return nullptr;
    return std::make_unique<TracedGraph>(std::move(graph), ops_.trace(), ops);
  }
  // NVIDIA tells no figure. Others have seen 10 KB (its own CUDASTF) to about 30 (whole steps of
  // large models under vLLM); PyTorch once reckoned with 64. Captures of a GPU say in the log what
  // they took.
  size_t bytes_per_node() const override { return size_t{32} << 10; }

 private:
  const std::unique_ptr<Runtime> runtime_;
  const Stream compute_, copies_;
  CudaOps ops_;
  std::mutex mutex_;  // guards what follows
  std::array<Event, 256> events_;
  size_t next_ = 0;
};

}  // namespace

std::unique_ptr<Device> make_device(std::unique_ptr<Runtime> runtime, DType act,
                                    bool batch_invariant, PlanCache plans, bool overlap_kernels) {
  return std::make_unique<CudaDevice>(std::move(runtime), act, batch_invariant, std::move(plans),
                                      overlap_kernels);
}

}  // namespace sluice::cuda
