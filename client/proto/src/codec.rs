//! Messages on gRPC streams: those with longer lists than allowed are refused before they are read.

use crate::shape::{List, Shape, too_long};
use crate::{Code, META_CODE};
use bytes::Buf;
use prost::Message;
use std::marker::PhantomData;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder};
use tonic::metadata::MetadataValue;
use tonic_prost::ProstEncoder;

/// Writes `T` and reads `U`.
#[derive(Clone, Debug)]
pub struct Bounded<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Bounded<T, U> {
    fn default() -> Self {
        Bounded(PhantomData)
    }
}

impl<T, U> Codec for Bounded<T, U>
where
    T: Message + Default + Send + 'static,
    U: Message + Default + Shape + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = Reader<U>;

    fn encoder(&mut self) -> ProstEncoder<T> {
        ProstEncoder::default()
    }

    fn decoder(&mut self) -> Reader<U> {
        Reader(PhantomData)
    }
}

/// Reads messages.
#[derive(Clone, Debug)]
pub struct Reader<U>(PhantomData<U>);

impl<U: Message + Default + Shape> Decoder for Reader<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        // A slice of the receive buffer, not a copy.
        let bytes = buf.copy_to_bytes(buf.remaining());
        if let Some(list) = too_long::<U>(&bytes) {
            return Err(refusal(list));
        }
        let message = U::decode(bytes);
        message.map(Some).map_err(|error| coded(Code::Invalid, format!("the message cannot be read: {error}")))
    }
}

fn refusal(list: &List) -> Status {
    coded(Code::TooLarge, format!("more than {} {} are given in one message: send several", list.max, list.name))
}

fn coded(code: Code, message: String) -> Status {
    let mut status = Status::invalid_argument(message);
    status.metadata_mut().insert(META_CODE, MetadataValue::from_static(code.name()));
    status
}
