// SPDX-License-Identifier: Apache-2.0
/*
 * slot.pml: INV-HA-1 and INV-HA-2 on LUNs with reservations: two recoverers, one victim that may sleep
 * anywhere, a command in flight that lands at any later moment or never. As clusterfs/slot.c, beat.c,
 * recover.c, fence.c and blockdev's "a path that comes up" do it; each flag takes one rule away.
 *
 *	ONEBLOCK	beat and claim share a block: a plain write undoes the claim (INV-FS-1)
 *	NOPREEMPT	the claim is not followed by a fence
 *	LOOKFIRST	a path that comes up looks at the claim, then registers (INV-PR: register, look, use)
 *	OLDSESSION	it registers on the session that still has writes in flight, not on a new one
 */
#define ACTIVE 0
#define RECOV  1
#define FREE   2
byte claim = ACTIVE, beat = 0, by = 0;
bool reg[3];		/* registrations, one for each nexus (session) of the victim */
bool beat_fl[3], write_fl[3]; /* commands in flight on it */
bool replayed = false;
byte busy = 0, beats = 0;

proctype array(byte n)
{
end:	do
	:: atomic { beat_fl[n] -> beat_fl[n] = false;
		if
		:: !reg[n] -> skip /* RESERVATION CONFLICT */
		:: reg[n] -> beat = (beat + 1) % 4;
#ifdef ONEBLOCK
			claim = ACTIVE; by = 0
#endif
		fi }
	:: atomic { write_fl[n] -> write_fl[n] = false;
		if
		:: !reg[n] -> skip
		:: reg[n] -> assert(!replayed) /* a dead epoch wrote after its replay: two writers */
		fi }
	od
}

proctype victim()
{
	bool dead = false, path = true;
	byte n = 0;
end:	do
	:: dead -> break
	:: !dead && path && beats < 3 -> beat_fl[n] = true; beats++
	:: !dead && path -> write_fl[n] = true /* may have slept since the check */
	:: !dead && path -> path = false
#ifdef OLDSESSION
	:: !dead && !path ->
#else
	:: !dead && !path && n < 2 -> n++;
#endif
#ifdef LOOKFIRST
		if :: claim != ACTIVE -> dead = true :: else -> skip fi;
		if :: !dead -> reg[n] = true; path = true :: dead -> skip fi
#else
		reg[n] = true;
		if :: claim != ACTIVE -> reg[n] = false; dead = true :: else -> path = true fi
#endif
	od
}

proctype recover(byte me)
{
	byte seen = 0, c = 0;
	bool mine = false;
	atomic { c = claim; seen = beat }
	if :: c != ACTIVE -> goto out :: else -> skip fi;
	atomic { if /* compare-and-write */
#ifdef ONEBLOCK
	:: claim == ACTIVE && beat == seen -> claim = RECOV; by = me; mine = true
#else
	:: claim == ACTIVE -> claim = RECOV; by = me; mine = true
#endif
	:: else -> skip fi };
	if :: !mine -> goto out :: else -> skip fi;
#ifndef NOPREEMPT
	atomic { reg[0] = false; reg[1] = false; reg[2] = false } /* one key on all its sessions */
#endif
	busy++; assert(busy <= 1); /* one recoverer at a time */
	replayed = true;
	busy--;
	atomic { if :: claim == RECOV && by == me -> claim = FREE :: else -> skip fi };
out:	skip
}

init {
	atomic {
		reg[0] = true;
		run array(0); run array(1); run array(2);
		run victim(); run recover(1); run recover(2)
	}
}
