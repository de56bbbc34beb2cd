# The scheduler in virtual time: workloads, a fleet of replicas, reports.
sluice_library(sim_workload SRCS workload.cc sim_machine.cc
               DEPS base recording scheduler nlohmann_json::nlohmann_json)
sluice_library(simulator SRCS sim_replica.cc sim_fleet.cc sim_metrics.cc DEPS sim_workload scheduler block_pool)
sluice_library(simulate SRCS simulate.cc sim_report.cc sim_plot.cc
               DEPS simulator config nlohmann_json::nlohmann_json)
