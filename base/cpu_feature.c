// SPDX-License-Identifier: Apache-2.0
/* Names of processor features. A bit that has no name here still counts. */
#include "base/cpu_feature.h"

#include "base/util.h"

static const char *const leaf_1_ecx[] = {
	[0] = "sse3",
	[1] = "pclmulqdq",
	[2] = "dtes64",
	[3] = "monitor",
	[4] = "ds_cpl",
	[5] = "vmx",
	[6] = "smx",
	[7] = "est",
	[8] = "tm2",
	[9] = "ssse3",
	[11] = "sdbg",
	[12] = "fma",
	[13] = "cx16",
	[14] = "xtpr",
	[15] = "pdcm",
	[17] = "pcid",
	[18] = "dca",
	[19] = "sse4_1",
	[20] = "sse4_2",
	[21] = "x2apic",
	[22] = "movbe",
	[23] = "popcnt",
	[24] = "tsc_deadline_timer",
	[25] = "aes",
	[26] = "xsave",
	[28] = "avx",
	[29] = "f16c",
	[30] = "rdrand",
	[31] = "hypervisor",
};

static const char *const leaf_1_edx[] = {
	[0] = "fpu",	  [1] = "vme",	[2] = "de",    [3] = "pse",  [4] = "tsc",    [5] = "msr",
	[6] = "pae",	  [7] = "mce",	[8] = "cx8",   [9] = "apic", [11] = "sep",   [12] = "mtrr",
	[13] = "pge",	  [14] = "mca", [15] = "cmov", [16] = "pat", [17] = "pse36", [18] = "pn",
	[19] = "clflush", [21] = "dts", [22] = "acpi", [23] = "mmx", [24] = "fxsr",  [25] = "sse",
	[26] = "sse2",	  [27] = "ss",	[29] = "tm",   [31] = "pbe",
};

static const char *const leaf_6_eax[] = {[2] = "arat"};

static const char *const leaf_7_ebx[] = {
	[0] = "fsgsbase",
	[1] = "tsc_adjust",
	[2] = "sgx",
	[3] = "bmi1",
	[4] = "hle",
	[5] = "avx2",
	[6] = "fdp_excptn_only",
	[7] = "smep",
	[8] = "bmi2",
	[9] = "erms",
	[10] = "invpcid",
	[11] = "rtm",
	[12] = "cqm",
	[13] = "zero_fcs_fds",
	[14] = "mpx",
	[15] = "rdt_a",
	[16] = "avx512f",
	[17] = "avx512dq",
	[18] = "rdseed",
	[19] = "adx",
	[20] = "smap",
	[21] = "avx512ifma",
	[23] = "clflushopt",
	[24] = "clwb",
	[25] = "intel_pt",
	[26] = "avx512pf",
	[27] = "avx512er",
	[28] = "avx512cd",
	[29] = "sha_ni",
	[30] = "avx512bw",
	[31] = "avx512vl",
};

static const char *const leaf_7_ecx[] = {
	[0] = "prefetchwt1",
	[1] = "avx512vbmi",
	[2] = "umip",
	[3] = "pku",
	[5] = "waitpkg",
	[6] = "avx512_vbmi2",
	[7] = "shstk",
	[8] = "gfni",
	[9] = "vaes",
	[10] = "vpclmulqdq",
	[11] = "avx512_vnni",
	[12] = "avx512_bitalg",
	[13] = "tme",
	[14] = "avx512_vpopcntdq",
	[16] = "la57",
	[22] = "rdpid",
	[24] = "bus_lock_detect",
	[25] = "cldemote",
	[27] = "movdiri",
	[28] = "movdir64b",
	[29] = "enqcmd",
	[30] = "sgx_lc",
	[31] = "pks",
};

static const char *const leaf_7_edx[] = {
	[2] = "avx512_4vnniw",	 [3] = "avx512_4fmaps",	      [4] = "fsrm",
	[5] = "uintr",		 [8] = "avx512_vp2intersect", [9] = "srbds_ctrl",
	[10] = "md_clear",	 [14] = "serialize",	      [16] = "tsxldtrk",
	[18] = "pconfig",	 [19] = "arch_lbr",	      [20] = "ibt",
	[22] = "amx_bf16",	 [23] = "avx512_fp16",	      [24] = "amx_tile",
	[25] = "amx_int8",	 [26] = "spec_ctrl",	      [27] = "intel_stibp",
	[28] = "flush_l1d",	 [29] = "arch_capabilities",  [30] = "core_capabilities",
	[31] = "spec_ctrl_ssbd",
};

static const char *const leaf_7_1_eax[] = {
	[0] = "sha512",	     [1] = "sm3",	[2] = "sm4",   [4] = "avx_vnni",
	[5] = "avx512_bf16", [7] = "cmpccxadd", [10] = "fzrm", [11] = "fsrs",
	[12] = "fsrc",	     [17] = "fred",	[18] = "lkgs", [21] = "amx_fp16",
	[23] = "avx_ifma",   [26] = "lam",
};

static const char *const leaf_7_1_edx[] = {
	[4] = "avx_vnni_int8",	 [5] = "avx_ne_convert", [8] = "amx_complex",
	[10] = "avx_vnni_int16", [14] = "prefetchi",	 [19] = "avx10",
};

static const char *const leaf_7_2_edx[] = {
	[0] = "psfd",	[1] = "ipred_ctrl", [2] = "rrsba_ctrl",
	[3] = "ddpd_u", [4] = "bhi_ctrl",   [5] = "mcdt_no",
};

static const char *const leaf_d_0_eax[] = {
	[0] = "xsave of x87",	    [1] = "xsave of sse",	 [2] = "xsave of avx",
	[3] = "xsave of bndregs",   [4] = "xsave of bndcsr",	 [5] = "xsave of opmask",
	[6] = "xsave of zmm_hi256", [7] = "xsave of hi16_zmm",	 [9] = "xsave of pkru",
	[17] = "xsave of xtilecfg", [18] = "xsave of xtiledata",
};

static const char *const leaf_d_1_eax[] = {
	[0] = "xsaveopt", [1] = "xsavec", [2] = "xgetbv1", [3] = "xsaves", [4] = "xfd",
};

static const char *const leaf_d_1_ecx[] = {
	[8] = "xsaves of pt",
	[11] = "xsaves of cet_u",
	[12] = "xsaves of cet_s",
};

static const char *const leaf_kvm_eax[] = {
	[0] = "kvmclock_old",
	[1] = "kvm_nopiodelay",
	[2] = "kvm_mmu_op",
	[3] = "kvmclock",
	[4] = "kvm_asyncpf",
	[5] = "kvm_steal_time",
	[6] = "kvm_pv_eoi",
	[7] = "kvm_pv_unhalt",
	[9] = "kvm_pv_tlb_flush",
	[10] = "kvm_asyncpf_vmexit",
	[11] = "kvm_pv_ipi",
	[12] = "kvm_poll_control",
	[13] = "kvm_pv_sched_yield",
	[14] = "kvm_asyncpf_int",
	[15] = "kvm_msi_ext_dest_id",
	[16] = "kvm_hc_map_gpa_range",
	[17] = "kvm_migration_control",
	[24] = "kvmclock_stable",
};

static const char *const leaf_8000_0001_ecx[] = {
	[0] = "lahf_lm",     [2] = "svm",    [3] = "extapic",	  [4] = "cr8_legacy",
	[5] = "abm",	     [6] = "sse4a",  [7] = "misalignsse", [8] = "3dnowprefetch",
	[9] = "osvw",	     [10] = "ibs",   [11] = "xop",	  [12] = "skinit",
	[13] = "wdt",	     [15] = "lwp",   [16] = "fma4",	  [17] = "tce",
	[19] = "nodeid_msr", [21] = "tbm",   [22] = "topoext",	  [23] = "perfctr_core",
	[24] = "perfctr_nb", [26] = "bpext", [27] = "ptsc",	  [28] = "perfctr_llc",
	[29] = "mwaitx",
};

static const char *const leaf_8000_0001_edx[] = {
	[11] = "syscall", [19] = "mp",	   [20] = "nx", [22] = "mmxext",   [25] = "fxsr_opt",
	[26] = "pdpe1gb", [27] = "rdtscp", [29] = "lm", [30] = "3dnowext", [31] = "3dnow",
};

static const char *const leaf_8000_0007_edx[] = {[8] = "constant_tsc (invariant)"};

static const char *const leaf_8000_0008_ebx[] = {
	[0] = "clzero",
	[1] = "irperf",
	[2] = "xsaveerptr",
	[4] = "rdpru",
	[8] = "mcommit",
	[9] = "wbnoinvd",
	[12] = "ibpb",
	[14] = "ibrs",
	[15] = "stibp",
	[16] = "ibrs_always_on",
	[17] = "stibp_always_on",
	[18] = "ibrs_preferred",
	[19] = "ibrs_same_mode",
	[23] = "amd_ppin",
	[24] = "amd_ssbd",
	[25] = "virt_ssbd",
	[26] = "amd_ssb_no",
	[28] = "amd_psfd",
	[29] = "btc_no",
	[30] = "ibpb_ret",
};

static const char *const leaf_8000_000a_edx[] = {
	[0] = "npt",	      [1] = "lbrv",	    [2] = "svm_lock",	 [3] = "nrip_save",
	[4] = "tsc_scale",    [5] = "vmcb_clean",   [6] = "flushbyasid", [7] = "decodeassists",
	[10] = "pausefilter", [12] = "pfthreshold", [13] = "avic",	 [15] = "v_vmsave_vmload",
	[16] = "vgif",
};

static const char *const leaf_8000_0021_eax[] = {
	[0] = "no_nested_data_bp", [2] = "lfence_rdtsc",   [6] = "null_sel_clr_base",
	[8] = "autoibrs",	   [9] = "no_smm_ctl_msr", [27] = "sbpb",
	[28] = "ibpb_brtype",	   [29] = "srso_no",
};

static const char *const msr_arch_capabilities[] = {
	[0] = "rdcl_no",       [1] = "ibrs_all",       [3] = "skip_l1dfl", [4] = "ssb_no",
	[5] = "mds_no",	       [6] = "pschange_mc_no", [7] = "tsx_ctrl",   [8] = "taa_no",
	[13] = "sbdr_ssdp_no", [14] = "fbsdp_no",      [15] = "psdp_no",   [17] = "fb_clear",
	[20] = "bhi_no",       [24] = "pbrsb_no",      [26] = "gds_no",	   [27] = "rfds_no",
};

#define WORD(f, i, r, skip, list, name)                                                        \
	{                                                                                      \
		.function = (f), .index = (i), .reg = (r), .ignored = (skip), .names = (list), \
		.names_n = ARRAY_SIZE(list), .word_name = (name)                               \
	}
#define BIT(n) (1ULL << (n))

/* Ignored: what the guest itself switches (OSXSAVE, OSPKE), and what tells of the topology. */
const struct cpu_feature_word cpu_feature_words[] = {
	WORD(0x1, 0, CPU_ECX, BIT(27), leaf_1_ecx, "cpuid 1 ecx"),
	WORD(0x1, 0, CPU_EDX, BIT(28), leaf_1_edx, "cpuid 1 edx"),
	WORD(0x6, 0, CPU_EAX, 0, leaf_6_eax, "cpuid 6 eax"),
	WORD(0x7, 0, CPU_EBX, 0, leaf_7_ebx, "cpuid 7 ebx"),
	WORD(0x7, 0, CPU_ECX, BIT(4), leaf_7_ecx, "cpuid 7 ecx"),
	WORD(0x7, 0, CPU_EDX, 0, leaf_7_edx, "cpuid 7 edx"),
	WORD(0x7, 1, CPU_EAX, 0, leaf_7_1_eax, "cpuid 7.1 eax"),
	WORD(0x7, 1, CPU_EDX, 0, leaf_7_1_edx, "cpuid 7.1 edx"),
	WORD(0x7, 2, CPU_EDX, 0, leaf_7_2_edx, "cpuid 7.2 edx"),
	WORD(0xd, 0, CPU_EAX, 0, leaf_d_0_eax, "cpuid 0xd eax"),
	WORD(0xd, 1, CPU_EAX, 0, leaf_d_1_eax, "cpuid 0xd.1 eax"),
	WORD(0xd, 1, CPU_ECX, 0, leaf_d_1_ecx, "cpuid 0xd.1 ecx"),
	WORD(0x40000001, 0, CPU_EAX, 0, leaf_kvm_eax, "cpuid 0x40000001 eax"),
	WORD(0x80000001, 0, CPU_ECX, BIT(1), leaf_8000_0001_ecx, "cpuid 0x80000001 ecx"),
	/* The lower bits repeat those of leaf 1. */
	WORD(0x80000001, 0, CPU_EDX, 0x0183f3ff, leaf_8000_0001_edx, "cpuid 0x80000001 edx"),
	WORD(0x80000007, 0, CPU_EDX, 0, leaf_8000_0007_edx, "cpuid 0x80000007 edx"),
	WORD(0x80000008, 0, CPU_EBX, 0, leaf_8000_0008_ebx, "cpuid 0x80000008 ebx"),
	WORD(0x8000000a, 0, CPU_EDX, 0, leaf_8000_000a_edx, "cpuid 0x8000000a edx"),
	WORD(0x80000021, 0, CPU_EAX, 0, leaf_8000_0021_eax, "cpuid 0x80000021 eax"),
};
const unsigned cpu_feature_words_n = ARRAY_SIZE(cpu_feature_words);

/* RSBA and RRSBA say what a processor suffers from, not what it can. */
const struct cpu_feature_word cpu_feature_msrs[] = {
	WORD(0x10a, 0, 0, BIT(2) | BIT(19), msr_arch_capabilities, "msr 0x10a"),
};
const unsigned cpu_feature_msrs_n = ARRAY_SIZE(cpu_feature_msrs);
