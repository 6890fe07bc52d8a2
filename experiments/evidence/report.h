// What stdout shows: one JSON object with the keys of the contract, or a table to read.
#pragma once

#include "experiments/evidence/measure.h"
#include "nn/equivariance.h"

namespace evariste {

/// One line. Numbers that were not asked for, do not exist or are not finite are null.
std::string evidence_json(const EvidenceOptions& options, const EvidenceResult& result,
                          const EvidencePlan& plan);

std::string evidence_table(const EvidenceOptions& options, const EvidenceResult& result,
                           const EvidencePlan& plan);

/// Of --equivariance.
std::string equivariance_json(const std::string& group, const EquivarianceErrors& errors);
std::string equivariance_table(const std::string& group, const EquivarianceErrors& errors);

/// Of --entry.
std::string entry_json(const std::vector<EntryResult>& results);
std::string entry_table(const std::vector<EntryResult>& results);

/// Of --dry-run: every option with its value, the plan.
std::string plan_json(EvidenceOptions options, const EvidencePlan& plan);
std::string plan_text(EvidenceOptions options, const EvidencePlan& plan);

}  // namespace evariste
