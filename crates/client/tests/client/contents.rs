//! Contents on a client's side, over a real server and a line that is cut.

mod downloads;
mod parts;
mod scene;
mod times;
mod uploads;
