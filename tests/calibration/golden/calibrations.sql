BEGIN TRANSACTION;
CREATE TABLE calibration (
    id INTEGER PRIMARY KEY,
    device_id TEXT NOT NULL,
    versions TEXT NOT NULL,     -- JSON object with sorted keys
    renewal INTEGER NOT NULL,   -- 1: begun anew, replaces the one with 0 when it is complete
    created_at TEXT,            -- of the fits, NULL before
    fits TEXT,                  -- Calibration as JSON, without its points and their provenance
    UNIQUE (device_id, versions, renewal)
);
INSERT INTO "calibration" VALUES(1,'cpu-x-2c','{"accelerate": "1.14.0", "bitsandbytes": "0.50.2", "cores": "2", "peft": "0.21.2", "python": "3.11.2", "torch": "2.13.0", "transformers": "5.23.0"}',0,'2026-11-28T19:10:31+00:00','{"device_id": "cpu-x-2c", "versions": {"python": "3.11.2", "torch": "2.13.0", "transformers": "5.23.0", "peft": "0.21.2", "accelerate": "1.14.0", "bitsandbytes": "0.50.2", "cores": "2"}, "created_at": "2026-11-28T19:10:31+00:00", "classes": {"gemm/float32": {"overhead_s": 3.2342820196933506e-05, "s_per_flop": 4.636507919816168e-12, "s_per_near_byte": 9.743941798663568e-11, "s_per_far_byte": 9.743941798663568e-11, "near_bytes": 262144, "samples": 8, "residual_relative": 0.2001674073378879, "max_flops": 39321600, "max_bytes": 262144}}, "operators": {"gemm/float32/mm": {"overhead_s": 3.2342820196933506e-05, "s_per_flop": 4.636507919816168e-12, "s_per_near_byte": 9.743941798663568e-11, "s_per_far_byte": 9.743941798663568e-11, "near_bytes": 262144, "samples": 8, "residual_relative": 0.2001674073378879, "max_flops": 39321600, "max_bytes": 262144}}, "step": {"factor": 2.0064310951200244, "host_s_per_operator": 9.033536279487178e-05, "residual_relative": 0.4076694203240472, "noise_relative": 0.016061279960464556, "samples": 2, "transfer_relative": null, "power": 1, "residual": null, "transfer": null}, "evaluation": {"factor": 0.6003298216067752, "host_s_per_operator": 6.039844825372257e-06, "residual_relative": 0.4076694203240472, "noise_relative": 0.033333333333333305, "samples": 1, "transfer_relative": null, "power": 1, "residual": null, "transfer": null}, "model_ratios": {"bert/sequence-classification/384x6/30522": 1.0461735878562752}, "resident": {"baseline_bytes": 610000000, "bytes_per_heap_byte": 1.0, "residual_relative": 0.0, "samples": 1}, "held_out": {"median": 0.4178652421884237, "worst": 0.4990627499147684, "samples": 2, "how": "held back in turn"}, "replays": [], "points": [], "seconds": 30.0, "partial": "", "notes": ["a note"], "covered": [], "provenance": [], "transferred": [], "schema_version": 1}');
CREATE TABLE contribution (
    id INTEGER PRIMARY KEY,
    calibration_id INTEGER NOT NULL REFERENCES calibration ON DELETE CASCADE,
    fitted INTEGER NOT NULL,    -- 0: its points came after the last fit
    measured_at TEXT NOT NULL,
    advisor_version TEXT NOT NULL,
    machine TEXT NOT NULL,      -- JSON object
    file TEXT NOT NULL,
    checksum TEXT NOT NULL
);
INSERT INTO "contribution" VALUES(1,1,1,'2026-11-28T19:10:28+00:00','0.1.0','{"cores": "2", "device": "a made-up machine", "memory_bytes": "17179869184", "system": "Linux x86_64"}','','');
INSERT INTO "contribution" VALUES(2,1,0,'2026-11-28T19:10:31+00:00','0.1.0','{}','','');
CREATE TABLE point (
    id INTEGER PRIMARY KEY,
    calibration_id INTEGER NOT NULL REFERENCES calibration ON DELETE CASCADE,
    contribution_id INTEGER NOT NULL REFERENCES contribution ON DELETE CASCADE,
    kind TEXT NOT NULL,         -- as in Calibration: 'replays', 'points', 'covered'
    subject TEXT NOT NULL,      -- what was measured
    times TEXT NOT NULL,        -- JSON array
    record TEXT NOT NULL,       -- ReplayPoint, StepPoint or string as JSON
    UNIQUE (calibration_id, kind, subject, times)
);
INSERT INTO "point" VALUES(1,1,1,'replays','mm.default gemm/float32/mm 614400 4096 0915b5f741bbc533','[2.63488e-05, 0.01]','{"name": "mm.default", "key": "gemm/float32/mm", "flops": 614400, "moved_bytes": 4096, "median_s": 2.63488e-05, "spread": 0.01, "share": 1, "call": "0915b5f741bbc533", "origin": 0}');
INSERT INTO "point" VALUES(2,1,1,'replays','mm.default gemm/float32/mm 1228800 8192 f68f4ebc8b1379ef','[3.26976e-05, 0.01]','{"name": "mm.default", "key": "gemm/float32/mm", "flops": 1228800, "moved_bytes": 8192, "median_s": 3.26976e-05, "spread": 0.01, "share": 1, "call": "f68f4ebc8b1379ef", "origin": 0}');
INSERT INTO "point" VALUES(3,1,1,'replays','mm.default gemm/float32/mm 2457600 16384 4b3909db5063bc15','[4.53952e-05, 0.01]','{"name": "mm.default", "key": "gemm/float32/mm", "flops": 2457600, "moved_bytes": 16384, "median_s": 4.53952e-05, "spread": 0.01, "share": 1, "call": "4b3909db5063bc15", "origin": 0}');
INSERT INTO "point" VALUES(4,1,1,'replays','mm.default gemm/float32/mm 4915200 32768 67a5a06b7d381482','[7.07904e-05, 0.01]','{"name": "mm.default", "key": "gemm/float32/mm", "flops": 4915200, "moved_bytes": 32768, "median_s": 7.07904e-05, "spread": 0.01, "share": 1, "call": "67a5a06b7d381482", "origin": 0}');
INSERT INTO "point" VALUES(5,1,1,'replays','mm.default gemm/float32/mm 9830400 65536 ca0aba93d5df2d2f','[0.0001215808, 0.01]','{"name": "mm.default", "key": "gemm/float32/mm", "flops": 9830400, "moved_bytes": 65536, "median_s": 0.0001215808, "spread": 0.01, "share": 1, "call": "ca0aba93d5df2d2f", "origin": 0}');
INSERT INTO "point" VALUES(6,1,1,'replays','mm.default gemm/float32/mm 19660800 131072 7ede0fe1847c1fe3','[0.0002231616, 0.01]','{"name": "mm.default", "key": "gemm/float32/mm", "flops": 19660800, "moved_bytes": 131072, "median_s": 0.0002231616, "spread": 0.01, "share": 1, "call": "7ede0fe1847c1fe3", "origin": 0}');
INSERT INTO "point" VALUES(7,1,1,'points','bert/sequence-classification/384x6/30522 lora float32/none/sdpa/plain/adamw_torch_fused 8 64;','[0.1, 0.104, 0.099, 0.101, 0.1]','{"model_key": "bert/sequence-classification/384x6/30522", "method": "lora", "execution_key": "float32/none/sdpa/plain/adamw_torch_fused", "micro_batch_size": 8, "seq_length": 64, "step_times_s": [0.1, 0.104, 0.099, 0.101, 0.1], "work": [["gemm/float32/mm", 39321600, 262144, 200]], "resident_peak_bytes": 1000000000, "baseline_resident_bytes": 400000000, "weights_bytes": 90000000, "heap_bytes": 300000000, "origin": 0, "work_s": [0.0003], "evaluation_times_s": [0.03, 0.031, 0.029], "evaluation_work": [["gemm/float32/mm", 39321600, 262144, 200]], "evaluation_work_s": [0.0002], "configuration": "c1"}');
INSERT INTO "point" VALUES(8,1,1,'points','bert/sequence-classification/384x6/30522 full float32/none/sdpa/plain/adamw_torch_fused 8 64;','[0.15, 0.152, 0.149, 0.15, 0.151]','{"model_key": "bert/sequence-classification/384x6/30522", "method": "full", "execution_key": "float32/none/sdpa/plain/adamw_torch_fused", "micro_batch_size": 8, "seq_length": 64, "step_times_s": [0.15, 0.152, 0.149, 0.15, 0.151], "work": [["gemm/float32/mm", 39321600, 262144, 200]], "resident_peak_bytes": 0, "baseline_resident_bytes": 0, "weights_bytes": 0, "heap_bytes": 0, "origin": 0, "work_s": [], "evaluation_times_s": [], "evaluation_work": [], "evaluation_work_s": [], "configuration": ""}');
INSERT INTO "point" VALUES(9,1,1,'covered','bert/sequence-classification/384x6/30522 lora float32/none/sdpa/plain/adamw_torch_fused 8x64;','[]','"bert/sequence-classification/384x6/30522 lora float32/none/sdpa/plain/adamw_torch_fused 8x64"');
INSERT INTO "point" VALUES(10,1,2,'replays','mm.default gemm/float32/mm 39321600 262144 3c69f4ae58694718','[0.0004263232, 0.01]','{"name": "mm.default", "key": "gemm/float32/mm", "flops": 39321600, "moved_bytes": 262144, "median_s": 0.0004263232, "spread": 0.01, "share": 1, "call": "3c69f4ae58694718", "origin": 0}');
INSERT INTO "point" VALUES(11,1,2,'replays','mm.default gemm/float32/mm 78643200 524288 138fd3a7c3177300','[0.0008326464000000001, 0.01]','{"name": "mm.default", "key": "gemm/float32/mm", "flops": 78643200, "moved_bytes": 524288, "median_s": 0.0008326464000000001, "spread": 0.01, "share": 1, "call": "138fd3a7c3177300", "origin": 0}');
INSERT INTO "point" VALUES(12,1,2,'replays','mm.default gemm/float32/mm 157286400 1048576 40dd2c56a519eac1','[0.0016452928, 0.01]','{"name": "mm.default", "key": "gemm/float32/mm", "flops": 157286400, "moved_bytes": 1048576, "median_s": 0.0016452928, "spread": 0.01, "share": 1, "call": "40dd2c56a519eac1", "origin": 0}');
INSERT INTO "point" VALUES(13,1,2,'points','bert/sequence-classification/384x6/30522 head float32/none/sdpa/plain/adamw_torch_fused 8 64;','[0.05, 0.051, 0.05, 0.05, 0.052]','{"model_key": "bert/sequence-classification/384x6/30522", "method": "head", "execution_key": "float32/none/sdpa/plain/adamw_torch_fused", "micro_batch_size": 8, "seq_length": 64, "step_times_s": [0.05, 0.051, 0.05, 0.05, 0.052], "work": [["gemm/float32/mm", 39321600, 262144, 200]], "resident_peak_bytes": 0, "baseline_resident_bytes": 0, "weights_bytes": 0, "heap_bytes": 0, "origin": 0, "work_s": [], "evaluation_times_s": [], "evaluation_work": [], "evaluation_work_s": [], "configuration": ""}');
INSERT INTO "point" VALUES(14,1,2,'covered','bert/sequence-classification/384x6/30522 head float32/none/sdpa/plain/adamw_torch_fused 8x64;','[]','"bert/sequence-classification/384x6/30522 head float32/none/sdpa/plain/adamw_torch_fused 8x64"');
CREATE TABLE taken_over (       -- files of version 1
    name TEXT PRIMARY KEY,
    checksum TEXT NOT NULL
);
INSERT INTO "taken_over" VALUES('cpu-x-2c.json','1b998d532a809de8e9fe71dda3715b45b8710aba255bb87da6c08ef6bb400d4f');
INSERT INTO "taken_over" VALUES('cpu-x-2c.jsonl','98a2b9fef9828830061f657acd9da5cc1bd507d3c9a30cd0e63ddcfb261549d9');
COMMIT;
PRAGMA user_version = 1;
