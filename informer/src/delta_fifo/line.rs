//! The line that a queue keeps its objects in: first come, first out, and holes where somebody
//! left from the middle.
//!
//! Ten bytes for each that waits, in pieces that are given back once they are empty: a line may
//! hold every object of a large store while its handler is stuck.

use std::collections::VecDeque;
use std::sync::Arc;

/// How many places a piece has.
const PIECE: usize = 128;

/// Names a place for as long as somebody is in it. Wraps around: compared by distance only.
pub(super) type Seat = u32;

pub(super) struct Line<T, M> {
    pieces: VecDeque<Box<Piece<T, M>>>,
    /// A piece that is empty, to be used again.
    spare: Option<Box<Piece<T, M>>>,
    /// The seat of the first place of the first piece.
    origin: Seat,
    /// The first seat that is taken, if any is.
    front: Seat,
    /// The next seat to be given.
    end: Seat,
    taken: usize,
}

struct Piece<T, M> {
    objects: [Option<Arc<T>>; PIECE],
    marks: [M; PIECE],
}

impl<T, M: Copy + Default> Line<T, M> {
    pub(super) fn new() -> Self {
        let pieces = VecDeque::new();
        Self { pieces, spare: None, origin: 0, front: 0, end: 0, taken: 0 }
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.taken
    }

    /// How many places nobody is in, between those that wait.
    pub(super) fn holes(&self) -> usize {
        self.end.wrapping_sub(self.front) as usize - self.taken
    }

    /// The seat that is given next.
    pub(super) fn end(&self) -> Seat {
        self.end
    }

    pub(super) fn front(&self) -> Option<Seat> {
        (self.taken > 0).then_some(self.front)
    }

    pub(super) fn push(&mut self, object: Arc<T>, mark: M) -> Seat {
        let seat = self.end;
        let (piece, place) = self.find(seat);
        if piece == self.pieces.len() {
            let piece = self.spare.take().unwrap_or_else(Piece::new);
            self.pieces.push_back(piece);
        }
        let piece = &mut self.pieces[piece];
        piece.objects[place] = Some(object);
        piece.marks[place] = mark;
        self.end = seat.wrapping_add(1);
        self.taken += 1;
        seat
    }

    /// Whoever is in a seat; nobody if it was left, however long ago.
    pub(super) fn get(&self, seat: Seat) -> Option<(&Arc<T>, M)> {
        if seat.wrapping_sub(self.front) >= self.end.wrapping_sub(self.front) {
            return None;
        }
        let (piece, place) = self.find(seat);
        let piece = &self.pieces[piece];
        piece.objects[place].as_ref().map(|object| (object, piece.marks[place]))
    }

    /// Puts another object into a seat that is taken. Answers the one that was there.
    pub(super) fn swap(&mut self, seat: Seat, object: Arc<T>, mark: M) -> Option<Arc<T>> {
        let (piece, place) = self.find(seat);
        let piece = &mut self.pieces[piece];
        piece.marks[place] = mark;
        piece.objects[place].replace(object)
    }

    /// Leaves a seat.
    pub(super) fn take(&mut self, seat: Seat) -> Option<(Arc<T>, M)> {
        self.get(seat)?;
        let (piece, place) = self.find(seat);
        let piece = &mut self.pieces[piece];
        let object = piece.objects[place].take()?;
        let mark = piece.marks[place];
        self.taken -= 1;
        if seat == self.front {
            self.close_up();
        }
        Some((object, mark))
    }

    /// Moves everybody up so that there are no holes. Answers the seats that were taken, in
    /// order; the first of them is `front` now, and so on.
    pub(super) fn compact(&mut self) -> Vec<Seat> {
        let mut old = std::mem::replace(self, Self::new());
        let mut seats = Vec::with_capacity(old.taken);
        while let Some(seat) = old.front() {
            let Some((object, mark)) = old.take(seat) else { break };
            seats.push(seat);
            self.push(object, mark);
        }
        seats
    }

    /// Whether a seat was given before another one.
    pub(super) fn is_before(seat: Seat, other: Seat) -> bool {
        let distance = other.wrapping_sub(seat);
        distance > 0 && distance <= Seat::MAX / 2
    }

    /// Brings the front to the first seat that is taken, and gives back what lies before it.
    fn close_up(&mut self) {
        if self.taken == 0 {
            self.front = self.end;
        } else {
            loop {
                self.front = self.front.wrapping_add(1);
                let (piece, place) = self.find(self.front);
                if self.pieces[piece].objects[place].is_some() {
                    break;
                }
            }
        }
        while self.front.wrapping_sub(self.origin) as usize >= PIECE {
            self.spare = self.pieces.pop_front();
            self.origin = self.origin.wrapping_add(seats(PIECE));
        }
    }

    fn find(&self, seat: Seat) -> (usize, usize) {
        let distance = seat.wrapping_sub(self.origin) as usize;
        (distance / PIECE, distance % PIECE)
    }
}

impl<T, M: Copy + Default> Piece<T, M> {
    fn new() -> Box<Self> {
        Box::new(Self { objects: [const { None }; PIECE], marks: [M::default(); PIECE] })
    }
}

fn seats(count: usize) -> Seat {
    Seat::try_from(count).expect("fewer than 2^32 keys wait")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line_of(numbers: impl IntoIterator<Item = u32>) -> (Line<u32, u8>, Vec<Seat>) {
        let mut line = Line::new();
        let seats = numbers.into_iter().map(|number| line.push(Arc::new(number), 0)).collect();
        (line, seats)
    }

    fn rest_of(mut line: Line<u32, u8>) -> Vec<u32> {
        let next = || line.front().and_then(|seat| line.take(seat)).map(|(number, _)| *number);
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn who_leaves_from_the_middle_leaves_a_hole_and_the_rest_stays_in_order() {
        let (mut line, seats) = line_of(0..1000);

        for seat in &seats[100..900] {
            assert!(line.take(*seat).is_some());
            assert!(line.get(*seat).is_none());
        }

        assert_eq!((line.len(), line.holes()), (200, 800));
        assert_eq!(rest_of(line), (0..100).chain(900..1000).collect::<Vec<_>>());
    }

    #[test]
    fn moving_up_keeps_the_order_and_fills_the_holes() {
        let (mut line, seats) = line_of(0..300);
        for seat in seats.iter().step_by(2) {
            line.take(*seat);
        }

        let moved = line.compact();

        assert_eq!(moved, seats.into_iter().skip(1).step_by(2).collect::<Vec<_>>());
        assert_eq!(line.holes(), 0);
        assert_eq!(rest_of(line), (0..300).skip(1).step_by(2).collect::<Vec<_>>());
    }

    #[test]
    fn seats_may_wrap_around() {
        let mut line = Line::<u32, u8>::new();
        let start = Seat::MAX - 200;
        (line.origin, line.front, line.end) = (start, start, start);

        for number in 0..500 {
            line.push(Arc::new(number), 0);
        }

        assert!(line.get(start.wrapping_sub(1)).is_none());
        assert_eq!(rest_of(line), (0..500).collect::<Vec<_>>());
    }

    #[test]
    fn an_empty_line_holds_no_more_than_two_pieces() {
        let (mut line, _) = line_of(0..10_000);
        while let Some(seat) = line.front() {
            line.take(seat);
        }

        assert!(line.pieces.len() + usize::from(line.spare.is_some()) <= 2);
    }
}
