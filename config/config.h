#pragma once

#include <cstdint>
#include <string>

namespace sluice {

// Every knob of the daemon, once, with its default. A knob that is not here does
// not exist: no getenv, no second flags struct, no per-class Options copies.
// fields.h lists them for parsing, --help, validation and --print-config.
struct Config {
  struct Model {
    std::string path;
    std::string served_name;    // empty: the directory's name
    std::string chat_template;  // one of the model's by name, or a file; empty: the model's
    bool trust_request_chat_template = false;  // run templates that clients send
    std::string dtype = "auto";  // of the weights in memory: auto (as stored), f32, f16, bf16, fp8
    std::string load_format = "auto";  // auto (the directory's tensors), dummy (random ones)
    int max_model_len = 0;             // 0: the model's own limit
  } model;
  struct Device {
    std::string kind = "auto";     // auto, cpu, cuda
    int index = 0;                 // of the GPU
    std::string plugin;            // file of the CUDA engine; empty: the usual places
    std::string libraries;         // folder to look into first for NVIDIA's libraries
    std::string plan_cache;        // folder for what is measured of a GPU at the start; empty: none
    bool batch_invariant = false;  // a GPU's results do not depend on what else is in a batch
    bool overlap_kernels = true;   // of a GPU: one comes to the chip while the one before it runs
    int threads = 0;               // 0: the cgroup's quota
    std::string isa = "auto";      // auto, amx, avx512bf16, avx512, avx2, portable
  } device;
  struct Cache {
    int block_size = 16;         // tokens
    int64_t bytes = 0;           // 0: memory_fraction of what is left
    double memory_fraction = 0;  // of what the weights leave; 0: by the device
    bool prefix_caching = true;
    std::string dtype = "auto";  // auto, f32, f16, bf16
    int64_t host_bytes = 0;      // second tier in host memory: swaps and evicted prefixes; 0: none
  } cache;
  struct Scheduler {
    // A system of the field by name, or sluice: one value for each choice below that is "auto".
    std::string preset = "sluice";
    std::string order = "auto";        // fcfs, fcfs_strict, mlfq
    std::string step = "auto";         // chunked, whole, prefill_first, batch, ratio
    std::string reservation = "auto";  // paged, full
    std::string budget = "auto";       // fixed, target, split_fuse
    std::string pressure = "auto";     // recompute, swap, swap_groups, cheapest
    std::string proactive = "auto";    // on, off
    std::string promotion = "auto";    // restart, visit
    int max_seqs = 256;                // sequences that hold cache blocks at once
    int max_rows = 0;                  // of those, how many a step computes; 0: all
    int max_step_tokens = 0;           // token budget of a step; 0: 256, or 2048 for whole prompts
    int max_queue = 1024;              // requests waiting for admission
    int64_t max_queued_tokens = 0;     // prompt tokens waiting; 0: no limit
    int max_preemptions = 4;  // a request preempted this often returns with all it needs reserved
    int min_residency = 2;    // steps a request computes before it may be preempted
    double token_interval_ms = 0;  // budget=target: time between tokens; 0: interval_factor
    double interval_factor = 3;    // times a plain decode step of what runs
    int max_prefill_steps = 1;     // budget=split_fuse
    int tile_tokens = 1;           // steps that cut a prompt end on a multiple
    double quantum_ms = 0;         // order=mlfq: of the first level; 0: one decode step
    double promote_ms = 0;  // order=mlfq: starving after so long without a step; 0: the preset's
    double promote_growth = 0;    // times this per level; 0: the preset's
    double waiting_ratio = 0.3;   // step=ratio
    int max_waiting_steps = 20;   // step=ratio
    double max_ttft_seconds = 0;  // a request predicted to wait longer is refused; 0: none is
  } scheduler;
  struct Server {
    std::string host = "127.0.0.1";
    int http_port = 8000;
    int grpc_port = 8001;  // 0: any free port, for both
    int io_threads = 2;
    int drain_delay_seconds = 0;  // from SIGTERM until new work is refused
    int drain_seconds = 30;       // from then on, for what runs
    int stall_seconds = 60;       // without a step while there is work: not ready, not alive
    int max_connections = 4096;
    int64_t max_body_bytes = 8 << 20;
    int body_timeout_seconds = 30;   // to receive a whole request
    int write_timeout_seconds = 60;  // a client that reads nothing for this long is dropped
    std::string ports_file;          // gets "HTTP_PORT GRPC_PORT" when ready; empty: none
    int max_n = 16;                  // samples a request may ask for
    std::string record_file;  // gets what is served, for `sluice simulate --trace`; empty: none
  } server;
  struct Log {
    std::string level = "info";   // debug, info, warn, error
    std::string format = "text";  // text, json
  } log;
};

}  // namespace sluice
